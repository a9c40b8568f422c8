"""The last column of a list: in a terminal it is folded to its width; in a pipe it is whole, so that grep finds it."""

import shutil
import sys
import textwrap

#: The least width of a terminal, in columns.
NARROWEST = 80


def folded(text: str, start: int) -> str:
    """The text of a column that begins after ``start`` others. Nothing of it is cut."""
    if not sys.stdout.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, NARROWEST) - start
    return f"\n{' ' * start}".join(textwrap.wrap(text, width, break_on_hyphens=False))
