"""Rates as people write them: ``20/s``, ``300/m``, ``1000/h``, ``10/d``."""

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*/\s*(s|m|min|h|d)")


def read_rate(text: str) -> float | None:
    """The number per second; None if the text is no rate."""
    found = _RATE.fullmatch(text.strip())
    return float(found[1]) / _UNITS[found[2][0]] if found else None


def rate_text(rate: float) -> str:
    """A number per second as a person writes it: ``5/s``, ``10/m``, ``1/h``."""
    unit = next((unit for unit, seconds in _UNITS.items() if round(rate * seconds, 6) >= 1), "d")
    return f"{rate * _UNITS[unit]:.6g}/{unit}"
