"""Fits what is drawn to the height of a terminal."""

from itertools import chain

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment


class Fitting:
    """The first of these forms that fits the height of the terminal; else the last, cut, with "…" as its last line."""

    def __init__(self, *forms: RenderableType) -> None:
        self._forms = forms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints."""
        height = options.height or console.height
        lines: list[list[Segment]] = []
        for form in self._forms:
            lines = console.render_lines(form, options.reset_height(), pad=False)
            if len(lines) <= height:
                break
        else:
            lines = [*lines[: height - 1], [Segment("…")]]
        # No line end after the last one: it would scroll the screen.
        yield from chain(*([*([Segment.line()] if number else []), *line] for number, line in enumerate(lines)))
