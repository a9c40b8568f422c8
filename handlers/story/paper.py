"""The output of the story: lines of up to 80 columns, coloured on a terminal."""

import os
import sys
import textwrap
from collections.abc import Iterable
from typing import Any, TextIO

import click

WIDTH = 80
#: The colour of each service. None: the default colour of the terminal.
COLOURS = {
    "order": None,
    "restaurant": "yellow",
    "payment": "green",
    "driver": "cyan",
    "notification": "magenta",
    "loyalty": "blue",
}
_SERVICE_WIDTH = max(map(len, COLOURS))


class Paper:
    """Writes lines to the output, standard output by default. Flushes each line, also into a pipe."""

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output or sys.stdout
        self._colour = self._output.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def prose(self, text: str = "", *, colour: str | None = None) -> None:
        """Print a paragraph. Without text, print an empty line."""
        for line in textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False) or [""]:
            self._line(self._styled(_clipped(line, WIDTH), fg=colour))

    def heading(self, text: str) -> None:
        """Print an empty line and a heading."""
        self._line()
        self._line(self._styled(text[:WIDTH], bold=True))

    def happening(self, seconds: float, service: str, text: str, *, trouble: bool = False, aside: str = "") -> None:
        """Print one line of the flow: time, service and text. ``aside`` is at the right edge, if there is room."""
        head = f"{seconds:6.2f}  {service:<{_SERVICE_WIDTH}}  "
        text = _clipped(text, WIDTH - len(head))
        gap = WIDTH - len(head) - len(text) - len(aside)
        aside = " " * gap + aside if aside and gap > 0 else ""
        colour = "red" if trouble else COLOURS.get(service)
        when, who = head[:8], head[8:]
        self._line(self._styled(when, dim=True) + self._styled(who + text, fg=colour) + self._styled(aside, dim=True))

    def verbatim(self, lines: Iterable[str]) -> None:
        """Print a command or its output, indented."""
        for line in lines:
            self._line("    " + self._styled(_clipped(line, WIDTH - 4), dim=True))

    def quote(self, who: str, text: str) -> None:
        """Print the message that a customer reads."""
        for line in textwrap.wrap(f'{who} reads: "{text}"', WIDTH, initial_indent="  ", subsequent_indent="    "):
            self._line(self._styled(line, bold=True))

    def table(self, rows: Iterable[tuple[str, str]]) -> None:
        """Print rows of a service and a text."""
        for service, text in rows:
            who = self._styled(f"  {service:<{_SERVICE_WIDTH}}", fg=COLOURS.get(service))
            lines = textwrap.wrap(text, WIDTH - _SERVICE_WIDTH - 4)
            self._line(f"{who}  {lines[0]}")
            for line in lines[1:]:
                self._line(" " * (_SERVICE_WIDTH + 4) + line)

    def words(self, text: str = "", *, end: bool = False) -> None:
        """Print a part of a line at once. ``end`` completes the line."""
        self._output.write(text + "\n" * end)
        self._output.flush()

    def _line(self, text: str = "") -> None:
        self.words(text, end=True)

    def _styled(self, text: str, **style: Any) -> str:
        return click.style(text, **style) if self._colour and text and any(style.values()) else text


def _clipped(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
