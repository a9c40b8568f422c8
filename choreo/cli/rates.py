"""Rates on the command line: 20/s, 300/m."""

from typing import Any

import click

from choreo.rates import read_rate


class Rate(click.ParamType[float]):
    """A number per second, written as a number per unit of time."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number per second."""
        if isinstance(value, int | float):
            return float(value)
        rate = read_rate(value)
        if not rate:
            self.fail(f"{value!r} is no rate. Write it like 20/s, 300/m or 1000/h.", param, ctx)
        return rate


RATE = Rate()
