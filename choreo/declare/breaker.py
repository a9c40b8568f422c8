"""When a handler pauses itself, because nothing that it does succeeds. Computes numbers only; the store counts."""

from dataclasses import dataclass
from datetime import timedelta

from choreo.durations import LONGEST, is_wait
from choreo.errors import DeclarationError

#: The largest number of failures that a breaker may wait for.
MOST_FAILURES = 1_000_000


@dataclass(frozen=True, slots=True)
class Breaker:
    """
    When a handler pauses itself during an outage, and when it probes: ``Retry(breaker=Breaker())``.

    After ``failures`` failures of one kind in a row the handler is paused on all workers. Then one event at a time is
    let through, a *probe*: first after ``first`` seconds, then after twice as long each time, up to ``cap``. The first
    probe that succeeds ends the pause. No attempt that fails meanwhile counts, so that an outage makes no dead letters.

    A success begins the row anew. Only errors that are retried count, and `RetryLater` does not.
    Raises `DeclarationError` when a value is out of range.

        >>> Breaker(first=1.0, cap=30.0).wait(3)
        8.0
    """

    #: Failures of one kind in a row that pause the handler.
    failures: int = 5
    #: Seconds from the pause to the first probe.
    first: float = 1.0
    #: The most seconds between two probes.
    cap: float = 30.0

    def __post_init__(self) -> None:
        if type(self.failures) is not int or not 2 <= self.failures <= MOST_FAILURES:
            raise DeclarationError(f"Breaker(failures={self.failures!r}): a number from 2 to {MOST_FAILURES:,}.")
        if not (_is_seconds(self.first) and _is_seconds(self.cap) and self.first <= self.cap):
            raise DeclarationError(
                f"Breaker(first={self.first!r}, cap={self.cap!r}): both are seconds, first above 0, cap at least "
                f"first, and up to {LONGEST.days} days."
            )

    def wait(self, probes: int) -> float:
        """Return the seconds until the next probe, after this many have failed."""
        # Beyond 2**60 seconds the cap applies anyway, and a larger exponent could overflow the float.
        return float(min(self.cap, self.first * 2.0 ** min(probes, 60)))


def _is_seconds(value: object) -> bool:
    return not isinstance(value, timedelta) and is_wait(value, above=0)
