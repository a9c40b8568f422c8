"""Times and numbers as people say them."""

from datetime import UTC, datetime

_UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))
_ORDINALS = {1: "st", 2: "nd", 3: "rd"}


def span(seconds: float) -> str:
    """A length of time: ``12 ms``, ``1.2 s``, ``57 min``, ``5 h``, ``3 d``."""
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def clock(moment: float, now: float) -> str:
    """A moment in UTC, in seconds since 1970: its time, with its date if that is another day than ``now``."""
    try:
        at = datetime.fromtimestamp(moment, UTC)
    except (OverflowError, ValueError, OSError):
        return "?"
    today = datetime.fromtimestamp(now, UTC).date()
    return f"{at:%H:%M:%S}" if at.date() == today else f"{at:%Y-%m-%d %H:%M:%S}"


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``13th``."""
    ending = "th" if number // 10 % 10 == 1 else _ORDINALS.get(number % 10, "th")
    return f"{number}{ending}"


def counted(number: int, noun: str) -> str:
    """``1 event``, ``2 events``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def place(namespace: str) -> str:
    """A namespace: ``the namespace 'staging'``, ``the namespace '' (the default)``."""
    return f"the namespace {namespace!r}{'' if namespace else ' (the default)'}"
