"""When an event leaves that is announced for later."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from choreo.errors import DeclarationError


@dataclass(frozen=True, slots=True)
class Delay:
    """
    When an event leaves: so long after it was announced, or at a moment.

    Raises `DeclarationError` for what is neither, and for a moment without a time zone: whose noon would it be?
    """

    after: timedelta | float | None = None
    at: datetime | None = None

    def __post_init__(self) -> None:
        if self.after is not None and self.at is not None:
            raise DeclarationError(f"delay={self.after!r} and at={self.at!r}: say one of them.")
        if self.at is not None:
            self._check_moment(self.at)
        elif not _is_duration(self.after):
            raise DeclarationError(
                f"delay={self.after!r} is no time to wait. Write delay=timedelta(minutes=30), or seconds from 0."
            )

    def seconds(self, now: Callable[[], float]) -> float:
        """From now on. ``now`` is the store's clock, in seconds since 1970."""
        if self.at is not None:
            return max(self.at.timestamp() - now(), 0.0)
        return self.after.total_seconds() if isinstance(self.after, timedelta) else float(self.after or 0)

    def moment(self, start: datetime) -> datetime:
        """When it leaves if it is announced at this moment."""
        return self.at if self.at is not None else start + timedelta(seconds=self.seconds(float))

    @staticmethod
    def _check_moment(at: object) -> None:
        if not isinstance(at, datetime):
            raise DeclarationError(f"at={at!r} is no moment. Write at=datetime(2030, 1, 1, 12, tzinfo=UTC).")
        if at.utcoffset() is None:
            raise DeclarationError(
                f"at={at!r} does not say in which time zone. Write datetime(..., tzinfo=UTC), or "
                f'tzinfo=ZoneInfo("Europe/Berlin").'
            )


def _is_duration(after: object) -> bool:
    if isinstance(after, timedelta):
        return after >= timedelta(0)
    return isinstance(after, (int, float)) and not isinstance(after, bool) and math.isfinite(after) and after >= 0
