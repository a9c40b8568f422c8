"""The arithmetic: medians, percentiles, and ratios of sides that ran next to each other."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median


def percentile(values: Iterable[float], share: float) -> float:
    """Return the percentile by nearest rank. ``share`` is above 0 and at most 1. Raises `ValueError` without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values have no percentile")
    if not 0 < share <= 1:
        raise ValueError(f"{share} is no share: give a number above 0 and at most 1")
    return ordered[math.ceil(share * len(ordered)) - 1]


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Return ours / theirs for each common repetition. Other load on the machine affects both numbers of a ratio."""
    return [ours[repetition] / theirs[repetition] for repetition in sorted(ours) if theirs.get(repetition)]


def middle(values: Sequence[float]) -> float | None:
    """Return the median; None without values."""
    return median(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """Return (largest - smallest) / median; None for fewer than two values."""
    return (max(values) - min(values)) / median(values) if len(values) > 1 and median(values) else None
