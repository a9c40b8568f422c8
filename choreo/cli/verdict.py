"""How commands print a verdict: in at most 80 columns, in the colour of what it means."""

import os
import textwrap

import click

from choreo.observe.cause import Weight
from choreo.printing import one_line

#: The columns of a terminal.
WIDTH = 80
_COLOURS = {Weight.STUCK: "red", Weight.DONE: "green", Weight.WAITING: "yellow", Weight.UNKNOWN: "yellow"}


def say_verdict(text: str, weight: Weight) -> None:
    """Print a verdict. Colours are for a terminal only, and not with NO_COLOR."""
    color = False if os.environ.get("NO_COLOR") else None
    click.secho(wrapped(text, "      "), fg=_COLOURS[weight], bold=True, color=color)


def wrapped(text: str, indent: str = "") -> str:
    """Foreign text in several lines. ``indent`` begins each line but the first one."""
    shown = one_line(text)
    return textwrap.fill(shown, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
