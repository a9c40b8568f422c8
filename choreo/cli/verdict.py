"""How commands print a verdict: in at most 80 columns, in the colour of what it means."""

import os
import textwrap
from collections.abc import Sequence

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


def say_steps(steps: Sequence[str]) -> None:
    """Print what to do next. A command is never broken, so that it can be copied; a remark is a remark in each line."""
    for number, line in enumerate(line for step in steps for line in _shown(one_line(step))):
        click.echo(f"{'      ' if number else 'DO    '}{line}")


def _shown(step: str) -> Sequence[str]:
    if not step.startswith("# "):
        return [step]
    words = step.removeprefix("# ")
    return [f"# {line}" for line in textwrap.wrap(words, WIDTH - 8, break_long_words=False, break_on_hyphens=False)]


def wrapped(text: str, indent: str = "") -> str:
    """Foreign text in several lines. ``indent`` begins each line but the first one."""
    shown = one_line(text)
    return textwrap.fill(shown, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
