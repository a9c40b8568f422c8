"""How commands print a verdict: as wide as the terminal, or 80 columns; in the colour of what it means."""

import os
import shutil
import sys
from collections.abc import Sequence

import click

from choreo.cli.folding import wrap
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


def say_steps(steps: Sequence[str]) -> None:
    """Print what to do next. A command is never broken, so that it can be copied; a remark is a remark in each line."""
    for number, line in enumerate(line for step in steps for line in _shown(one_line(step))):
        click.echo(f"{'      ' if number else 'DO    '}{line}")


def _shown(step: str) -> Sequence[str]:
    if not step.startswith("# "):
        return [step]
    words = step.removeprefix("# ")
    return [f"# {line}" for line in wrap(words, width() - 8)]


def wrapped(text: str, indent: str = "") -> str:
    """Foreign text in several lines. ``indent`` begins each line but the first one."""
    return "\n".join(wrap(one_line(text), width(), indent))


def _is_terminal() -> bool:
    return sys.stdout.isatty()
