"""Tables in the terminal. Only the commands that print one import this, and rich with it."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from choreo.printing import lines, one_line

#: The least width where there is no terminal, in columns.
WIDTH = 80
_WIDEST = 10_000


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    is_number: bool = False
    #: True: this column is cut with … where the terminal is too narrow. False: it is never cut, but may be wrapped.
    is_cut: bool = False


#: A cell: a text; or a text and its style, such as "red".
Cell = str | tuple[str, str]


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> Table:
    """A table without lines. Foreign text is escaped, and never read as markup."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=column.is_cut or column.is_number,
            overflow="ellipsis" if column.is_cut else "fold",
        )
    for row in rows:
        made.add_row(*map(text, row))
    return made


def text(cell: Cell) -> Text:
    """A cell as rich prints it."""
    words, style = cell if isinstance(cell, tuple) else (cell, "")
    return Text(one_line(words), style=style)


def console() -> Console:
    """The terminal, or a pipe. Colours are for a terminal only."""
    is_terminal = sys.stdout.isatty()
    return _console(sys.stdout, None if is_terminal else WIDTH, is_terminal)


def show(*parts: RenderableType) -> None:
    """
    Print tables and texts, one below the other.

    On a terminal they are as wide as it is, and what does not fit is wrapped or cut. Elsewhere nothing is.
    """
    out = console()
    for part in parts:
        if out.is_terminal:
            out.print(part)
        else:
            click.echo(lines(plain(part)))


def plain(part: RenderableType) -> str:
    """The text without colours, as wide as it needs to be, and without spaces at the ends of its lines."""
    needed = _console(StringIO(), _WIDEST).measure(part).maximum
    file = StringIO()
    _console(file, max(WIDTH, needed)).print(part)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _console(file: Any, width: int | None, is_terminal: bool = False) -> Console:
    return Console(
        file=file,
        width=width,
        force_terminal=is_terminal,
        no_color=not is_terminal or bool(os.environ.get("NO_COLOR")),
        highlight=False,
        markup=False,
        emoji=False,
    )
