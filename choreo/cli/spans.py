"""Times on the command line: 30s, 10m, 2h, 1d."""

import re
from typing import Any

import click

from choreo.durations import is_wait

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


class Span(click.ParamType[float]):
    """A time in seconds, written as a number and a unit. A number alone is refused: it may mean minutes."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number of seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip())
        if found and not found[2]:
            number = found[1]
            self.fail(f"{value!r} has no unit. Write {number}s, {number}m, {number}h or {number}d.", param, ctx)
        seconds = float(found[1]) * _UNITS.get(found[2], -1.0) if found else -1.0
        if seconds < 0 or not is_wait(seconds):
            self.fail(f"{value!r} is no time. Write it like 30s, 10m, 2h or 1d.", param, ctx)
        return seconds


SPAN = Span()
