"""
Long texts: in a terminal, or with COLUMNS set, they are folded to the width.

In another pipe they are whole, so that grep finds them.
"""

import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import click

#: The least width of a terminal, in columns.
NARROWEST = 80
#: A command in a sentence, which can be copied as long as it is on one line.
_COMMAND = re.compile(r"`[^`\n]+`")
#: Stands for a space in a command.
_SPACE = "\0"


def wrap(text: str, columns: int, later: str = "") -> list[str]:
    """The lines of a text: words are not broken, nor at hyphens. ``later`` begins each line but the first one."""
    return textwrap.wrap(text, columns, subsequent_indent=later, break_long_words=False, break_on_hyphens=False)


def folded(text: str, start: int) -> str:
    """The text of a column that begins after ``start`` others. Nothing of it is cut."""
    if not _is_folded():
        return text
    return f"\n{' ' * start}".join(wrap(text, _columns() - start))


def keyed(row: str, key: str, most: int, *fields: str) -> str:
    """A row whose first field is a key. If texts are folded, one longer than ``most`` has a line of its own."""
    if len(key) <= most or not _is_folded():
        return row.format(key, *fields).rstrip()
    return f"{key}\n{row.format('', *fields)}".rstrip()


def room(start: int) -> float:
    """The columns behind ``start`` others; without an end where nothing is folded."""
    return _columns() - start if _is_folded() else math.inf


def cut(text: str, start: int) -> str:
    """The text of a line that begins after ``start`` others: what does not fit ends with three dots."""
    width = _columns() - start
    return text if len(text) <= width else f"{text[: width - 3]}..."


def told(text: str) -> str:
    """
    Sentences for stderr. Commands in backticks, URLs and other words stay whole; so do lines that begin with a space.
    """
    if not sys.stderr.isatty() and not os.environ.get("COLUMNS"):
        return text
    whole = _COMMAND.sub(lambda found: found[0].replace(" ", _SPACE), text)
    return "\n".join(map(_told_line, whole.split("\n"))).replace(_SPACE, " ")


def _told_line(line: str) -> str:
    if len(line) <= _columns() or line.startswith((" ", "\t")):
        return line
    return "\n".join(wrap(line, _columns()))


@contextmanager
def folded_errors() -> Iterator[None]:
    """Context manager: an error that click prints after it is folded as `told` does."""
    try:
        yield
    except click.ClickException as error:
        said = told(f"Error: {error.format_message()}").removeprefix("Error: ")
        error.format_message = lambda: said  # type: ignore[method-assign]
        raise


def _is_folded() -> bool:
    return sys.stdout.isatty() or bool(os.environ.get("COLUMNS"))


def _columns() -> int:
    return max(shutil.get_terminal_size().columns, NARROWEST)
