"""How commands print a verdict: as wide as the terminal, or 80 columns; in the colour of what it means."""

import os
import shutil
import sys
import textwrap

import click

from choreo.observe.cause import Weight
from choreo.printing import one_line

#: The columns of the output that is no terminal; and of the narrowest and the widest one.
WIDTH = 80
NARROWEST, WIDEST = 60, 120
_COLOURS = {Weight.STUCK: "red", Weight.DONE: "green", Weight.WAITING: "yellow", Weight.UNKNOWN: "yellow"}


def width() -> int:
    """The columns of the output: those of the terminal, within limits, or `WIDTH`."""
    if not _is_terminal():
        return WIDTH
    return min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)


def say_verdict(text: str, weight: Weight) -> None:
    """Print a verdict. Colours are for a terminal only, and not with NO_COLOR."""
    color = False if os.environ.get("NO_COLOR") else None
    click.secho(wrapped(text, "      "), fg=_COLOURS[weight], bold=True, color=color)


def wrapped(text: str, indent: str = "") -> str:
    """Foreign text in several lines. ``indent`` begins each line but the first one."""
    shown = one_line(text)
    return textwrap.fill(shown, width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _is_terminal() -> bool:
    return sys.stdout.isatty()
