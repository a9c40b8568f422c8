"""Figures as people read them in a column of six characters."""

import math

from choreo.observe import words


def span(seconds: float | None) -> str:
    """A time without a space, so that a row can be split: ``480ms``, ``24min``. "-": unknown; "grows": never."""
    if seconds is None:
        return "-"
    return "grows" if math.isinf(seconds) else words.span(seconds).replace(" ", "")


def count(number: int | None) -> str:
    """A number: ``9999``, ``12k``, ``3.4M``. "-": unknown."""
    if number is None:
        return "-"
    if number < 10_000:
        return str(number)
    return f"{number / 1000:.0f}k" if number < 1_000_000 else f"{number / 1_000_000:.1f}M"


def rate(per_second: float | None) -> str:
    """A number per second: ``0.3``, ``123``, ``1.2k``. "-": unknown."""
    if per_second is None:
        return "-"
    if per_second < 99.95:
        return f"{per_second:.1f}"
    return f"{per_second:.0f}" if per_second < 1000 else f"{per_second / 1000:.1f}k"


def size(count: int) -> str:
    """A number of bytes: ``512 B``, ``4.2 MB``, ``8 GB``."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GB"
