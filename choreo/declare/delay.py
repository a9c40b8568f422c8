"""Delays: when an event is sent that is announced for later."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from choreo.durations import LONGEST, is_wait
from choreo.errors import DeclarationError

logger = logging.getLogger(__name__)

#: Seconds by which the clock of a machine may differ from that of the store.
SKEW = 10.0


@dataclass(frozen=True, slots=True)
class Delay:
    """
    When a delayed event is sent: some time after it was announced, or at a moment.

    Raises `DeclarationError` unless exactly one of the two is given, when ``at`` has no time zone, and for a time that
    is further away than `LONGEST`. A moment in the past is now.
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
        elif not is_wait(self.after):
            raise DeclarationError(
                f"delay={self.after!r} is not a time to wait, up to {LONGEST.days} days. Write "
                f"delay=timedelta(minutes=30), or seconds from 0."
            )

    def seconds(self, now: Callable[[], float], here: Callable[[], datetime]) -> float:
        """
        Return the delay in seconds, from 0.

        ``now`` returns the time of the store, in seconds since 1970: ``at`` goes by this clock. ``here`` returns the
        time of this machine. If the two differ, a warning is logged, because ``at`` may have been computed by it.
        """
        if self.at is not None:
            store_time = now()
            _warn_of_wrong_clock(self.at, here().timestamp() - store_time)
            return max(self.at.timestamp() - store_time, 0.0)
        return self._after

    def moment(self, start: datetime) -> datetime:
        """Return the moment at which the event is due if it is announced at ``start``."""
        return self.at if self.at is not None else start + timedelta(seconds=self._after)

    @property
    def _after(self) -> float:
        return self.after.total_seconds() if isinstance(self.after, timedelta) else float(self.after or 0)

    @staticmethod
    def _check_moment(at: object) -> None:
        if not isinstance(at, datetime):
            raise DeclarationError(f"at={at!r} is not a moment. Write at=datetime(2030, 1, 1, 12, tzinfo=UTC).")
        if at.utcoffset() is None:
            raise DeclarationError(
                f'at={at!r} has no time zone. Write datetime(..., tzinfo=UTC), or tzinfo=ZoneInfo("Europe/Berlin").'
            )
        # By the clock of this machine, which may be wrong: what counts is that the moment is far from every clock.
        if at - datetime.now(UTC) > LONGEST:
            raise DeclarationError(f"at={at!r} is more than {LONGEST.days} days away, and is not sent in that time.")


def _warn_of_wrong_clock(at: datetime, ahead: float) -> None:
    if abs(ahead) > SKEW:
        logger.warning(
            "at=%s goes by the clock of the store, and the clock of this machine is %s %s it. If the moment was "
            "computed here, it is wrong by as much: set this clock, or write delay=..., or at=context.store_time() + "
            "... in a handler.",
            at.isoformat(),
            timedelta(seconds=round(abs(ahead))),
            "ahead of" if ahead > 0 else "behind",
        )
