"""Durations: the times to wait that choreo accepts."""

from datetime import UTC, datetime, timedelta

#: The longest time to wait: a hundred years. Times beyond it overflow in the store, and in the calendar of Python.
LONGEST = timedelta(days=36_500)


def is_wait(value: object, *, above: float = -1.0) -> bool:
    """
    True for a timedelta, or a number of seconds, from 0 to `LONGEST`. ``above``: it must be more than this.

    False for every other object, for NaN and for infinity.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return value >= 0 and above < value <= LONGEST.total_seconds()


def moment_of(seconds: float) -> datetime:
    """Return the moment, in UTC, at this many seconds since 1970; the first or the last one that Python knows."""
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        end = datetime.min if seconds < 0 else datetime.max
        return end.replace(tzinfo=UTC)
