"""The arithmetic: medians, percentiles, and ratios of what ran side by side."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values have no percentile")
    if not 0 < share <= 1:
        raise ValueError(f"{share} is no share: it is more than 0 and at most 1")
    return ordered[math.ceil(share * len(ordered)) - 1]


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Ours divided by theirs, for each repetition that both have: what else ran on the machine then hit both."""
    return [ours[repetition] / theirs[repetition] for repetition in sorted(ours) if theirs.get(repetition)]


def middle(values: Sequence[float]) -> float | None:
    """The median, or None of nothing."""
    return median(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """How far the values lie apart: (largest - smallest) / median."""
    return (max(values) - min(values)) / median(values) if len(values) > 1 and median(values) else None
