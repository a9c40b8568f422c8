"""One series of a handler, in memory."""

from bisect import insort
from dataclasses import dataclass, field


@dataclass
class MemorySeries:
    """See `choreo.store.turns`; the scripts decide the same. Times are in seconds."""

    #: The time of each event, the number of its arrival, and its unit, in order.
    order: list[tuple[int, int, str]] = field(default_factory=list)
    #: Unit → the schedule id of its copy; "": none waits.
    copies: dict[str, str] = field(default_factory=dict)
    #: The unit that has the turn, and until when; "": none.
    turn: str = ""
    until: float = 0.0
    #: The unit that got the turn without a copy, and has not asked since; "": none.
    silent: str = ""
    arrivals: int = 0

    def enter(self, unit: str, time: int) -> None:
        """Give the event a place."""
        if unit not in self.copies:
            self.arrivals += 1
            insort(self.order, (time, self.arrivals, unit))
            self.copies[unit] = ""

    def leave(self, unit: str) -> str:
        """Remove the event. Returns the schedule id of its copy; "" if none waits."""
        self.order = [place for place in self.order if place[2] != unit]
        if self.silent == unit:
            self.silent = ""
        return self.copies.pop(unit, "")

    def holder(self, now: float) -> str:
        """The unit that has the turn; "" if none has."""
        return self.turn if self.until > now else ""

    def give(self, unit: str, until: float) -> None:
        """Give the turn to a unit."""
        self.turn, self.until = unit, until
