"""Finds the type of event that another one is perhaps a misspelling of."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

#: The least likeness of two words, from 0 to 1: "order" and "orders" have 0.91, "rejected" and "confirmed" 0.35.
WORDS = 0.75
#: The least likeness of two types that have not the same number of words.
TYPES = 0.88


def alike(event_type: str, others: Iterable[str]) -> str:
    """
    The type among the others that differs from this one as a misspelling does; "" if there is none.

    Each word must be alike. So ``orders.placed`` is like ``order.placed``, and ``order.rejected_by_restaurant`` is not
    like ``order.confirmed_by_restaurant``, though most of their letters are the same.
    """
    likeness = {other: _likeness(event_type, other) for other in others}
    best = max(likeness, key=lambda other: (likeness[other], other), default="")
    return best if best and likeness[best] > 0 else ""


def _likeness(one: str, other: str) -> float:
    words, others = re.split(r"[._]", one), re.split(r"[._]", other)
    if len(words) != len(others):
        whole = _ratio("".join(words), "".join(others))
        return whole if whole >= TYPES else 0.0
    ratios = [_ratio(word, against) for word, against in zip(words, others, strict=True)]
    return sum(ratios) / len(ratios) if min(ratios) >= WORDS else 0.0


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
