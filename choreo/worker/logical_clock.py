"""The logical clock of a worker, with which Celery sorts worker events."""

from typing import Any

from kombu.clocks import LamportClock

#: The highest credible time of a logical clock. It grows by one with each message.
HIGHEST = 2**62


class LogicalClock(LamportClock):
    """
    Celery's clock. It is not set to what is no credible time.

    Each worker event and each command of remote control sets it forward. One message with a number of 4,300 digits
    would make a clock that no later message of this worker could name.
    """

    def adjust(self, other: Any) -> int:
        """Set the clock forward to ``other`` at least, and return its time."""
        is_credible = type(other) is int and other < HIGHEST
        return int(super().adjust(other if is_credible else 0))
