"""The clock of a stage: time passes when a test says so."""

from datetime import UTC, datetime

from choreo.errors import DeclarationError


class VirtualClock:
    """
    Tells the time at which it was set. It is the clock of the handlers and of the store.

    Raises `DeclarationError` for a start without a time zone.
    """

    def __init__(self, start: datetime) -> None:
        if start.utcoffset() is None:
            raise DeclarationError(f"start={start!r} has no time zone. Write datetime(2030, 1, 1, 12, tzinfo=UTC).")
        #: Seconds since 1970.
        self.seconds = start.timestamp()

    def time(self) -> float:
        """Seconds since 1970."""
        return self.seconds

    def now(self) -> datetime:
        """The same as a moment in UTC."""
        return datetime.fromtimestamp(self.seconds, UTC)
