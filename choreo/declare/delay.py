"""Delays: when an event is sent that is announced for later."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from choreo.errors import DeclarationError


@dataclass(frozen=True, slots=True)
class Delay:
    """
    When a delayed event is sent: some time after it was announced, or at a moment.

    Raises `DeclarationError` unless exactly one of the two is given, and when ``at`` has no time zone.
    """

    #: A timedelta, or seconds from 0.
    after: timedelta | float | None = None
    #: A moment with a time zone.
    at: datetime | None = None

    def __post_init__(self) -> None:
        if self.after is not None and self.at is not None:
            raise DeclarationError(f"delay={self.after!r} and at={self.at!r}: give one of them.")
        if self.at is not None:
            self._check_moment(self.at)
        elif not _is_duration(self.after):
            raise DeclarationError(
                f"delay={self.after!r} is not a time to wait. Write delay=timedelta(minutes=30), or seconds from 0."
            )

    def seconds(self, now: Callable[[], float]) -> float:
        """Return the delay in seconds, from 0. ``now`` returns the time of the store, in seconds since 1970."""
        if self.at is not None:
            return max(self.at.timestamp() - now(), 0.0)
        return self.after.total_seconds() if isinstance(self.after, timedelta) else float(self.after or 0)

    def moment(self, start: datetime) -> datetime:
        """Return the moment at which the event is due if it is announced at ``start``."""
        return self.at if self.at is not None else start + timedelta(seconds=self.seconds(float))

    @staticmethod
    def _check_moment(at: object) -> None:
        if not isinstance(at, datetime):
            raise DeclarationError(f"at={at!r} is not a moment. Write at=datetime(2030, 1, 1, 12, tzinfo=UTC).")
        if at.utcoffset() is None:
            raise DeclarationError(
                f'at={at!r} has no time zone. Write datetime(..., tzinfo=UTC), or tzinfo=ZoneInfo("Europe/Berlin").'
            )


def _is_duration(after: object) -> bool:
    if isinstance(after, timedelta):
        return after >= timedelta(0)
    return isinstance(after, (int, float)) and not isinstance(after, bool) and math.isfinite(after) and after >= 0
