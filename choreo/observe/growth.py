"""How fast queues grow or shrink, from what waited in them within the last minute."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from choreo.observe.handlers import ENOUGH, WINDOW, HandlerState

#: Seconds between two counts that are kept.
APART = 1.0


class Growth:
    """Keeps the counts of the last minute, and the one before. Not safe in threads."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, Mapping[str, int]]] = deque()

    def note(self, now: float, waiting: Mapping[str, int]) -> None:
        """Note what waits for each handler. Times are in seconds, by the store's clock."""
        # One count that is older stays, or nothing were known of looks that are further apart.
        while len(self._counts) > 1 and self._counts[1][0] <= now - WINDOW:
            self._counts.popleft()
        if not self._counts or now - self._counts[-1][0] >= APART:
            self._counts.append((now, waiting))

    def of(self, state: HandlerState, now: float) -> HandlerState:
        """The state with what follows from the counts: ``incoming`` and ``growth``, each if it is known."""
        first = next(((at, count[state.name]) for at, count in self._counts if state.name in count), None)
        if first is None or state.waiting is None or state.outgoing is None or now <= first[0]:
            return replace(state, growth=_shrinking(state))
        more, seconds = state.waiting - first[1], now - first[0]
        ended = state.outgoing * seconds
        if 0 < ended < ENOUGH and seconds < WINDOW - APART and (state.waiting or first[1]):
            return replace(state, growth=_shrinking(state))
        # So few more may be chance: events do not come evenly.
        growth = 0.0 if 0 < more <= math.sqrt(ended) else more / seconds
        return replace(state, incoming=max(state.outgoing + more / seconds, 0.0), growth=growth)


def _shrinking(state: HandlerState) -> float | None:
    """
    How fast the queue shrinks, from one look: all that waits has come since the oldest of it. None: unknown.

    It never says that a queue grows: what waits may have come all at once.
    """
    if not state.waiting or not state.outgoing or not state.oldest:
        return None
    growth = state.waiting / state.oldest - state.outgoing
    return growth if growth < 0 else None
