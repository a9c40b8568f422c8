"""
The last column of a list: in a terminal, or with COLUMNS set, it is folded to the width.

In another pipe it is whole, so that grep finds it.
"""

import os
import shutil
import sys
import textwrap

#: The least width of a terminal, in columns.
NARROWEST = 80


def folded(text: str, start: int) -> str:
    """The text of a column that begins after ``start`` others. Nothing of it is cut."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return text
    lines = textwrap.wrap(text, _columns() - start, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * start}".join(lines)


def cut(text: str, start: int) -> str:
    """The text of a line that begins after ``start`` others: what does not fit ends with three dots."""
    width = _columns() - start
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _columns() -> int:
    return max(shutil.get_terminal_size().columns, NARROWEST)
