"""Tables for people, by rich. Imported only by commands that print one: rich costs a third of a command's start."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from choreo.printing import one_line

#: Columns of the narrowest and the widest output. A wider line is hard to read.
WIDTHS = 80, 160

#: A piece of foreign text, with the style of rich that it has on a terminal.
Piece = str | tuple[str, str]


def screen() -> Console:
    """Where tables are printed: as wide as the terminal, or 80 columns. Colours only on a terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(max(console.width, WIDTHS[0]), WIDTHS[1])
    return console


def text(*pieces: Piece) -> Text:
    """A text of pieces, with escapes for what would act on the terminal."""
    parts = [(piece, "") if isinstance(piece, str) else piece for piece in pieces]
    return Text.assemble(*((one_line(part), style) for part, style in parts))


def listed(texts: Iterable[Text], between: str = ", ") -> Text:
    """Texts with commas between them."""
    return Text(between).join(texts)


def show(console: Console, *shown: Any) -> None:
    """Print, without the spaces that rich puts at the ends of lines."""
    with console.capture() as captured:
        for one in shown:
            console.print(one)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def unwrapped(console: Console, *shown: Text) -> None:
    """Print each text as one line, however long it is: a command can then be copied."""
    with console.capture() as captured:
        for one in shown:
            console.print(one, soft_wrap=True)
    click.echo(captured.get(), nl=False)


def whole(console: Console, *shown: Any) -> None:
    """Print as `show` does; but in a pipe or a file as wide as it needs to be, so that no line is wrapped."""
    if not console.is_terminal:
        widest = Console(width=10_000)
        console.width = max(console.width, *(widest.measure(one).maximum for one in shown))
    show(console, *shown)


def table(
    *columns: str, kept: Sequence[str] = (), widths: Sequence[int] = (), right: Sequence[str] = (), gap: int = 2
) -> Table:
    """
    A table without lines. The columns in ``kept`` are never wrapped. ``widths`` are those of all columns.

    The columns in ``right`` are numbers, and begin at the right. ``gap`` is the space between two columns.
    """
    made = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for column, width in zip_longest(columns, widths):
        justify: Any = "right" if column in right else "left"
        made.add_column(column, justify=justify, no_wrap=column in kept, overflow="fold", width=width)
    return made


def facts(rows: Iterable[tuple[str, Text]]) -> Table:
    """Facts with their names in capitals, one a row."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, fact in rows:
        made.add_row(name, fact)
    return made
