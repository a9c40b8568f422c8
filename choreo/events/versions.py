"""Versions: which classes of events read which versions of a type."""

from collections.abc import Iterable

from choreo.events.envelope import Envelope
from choreo.events.event import Event, event_classes
from choreo.events.upcast import can_upcast, is_readable


def classes_of(event_type: str) -> tuple[type[Event], ...]:
    """Every class of this type that is imported in this process, the oldest version first."""
    return tuple(sorted(event_classes(event_type), key=lambda event: event.event_version))


def versions_of(event: type[Event]) -> tuple[int, ...]:
    """The versions that this class reads, the oldest first: its own, and those that its upcasters take."""
    return *(step.version for step in event.event_upcasters), event.event_version


def covers(event: type[Event], version: int) -> bool:
    """True if this class reads this version: it is its own, or its upcasters take it."""
    return version == event.event_version or can_upcast(event, version)


def newest(events: Iterable[type[Event]]) -> type[Event] | None:
    """The class of the newest version; None if there is none."""
    return max(events, key=lambda event: event.event_version, default=None)


def reader_among(events: Iterable[type[Event]], envelope: Envelope) -> type[Event]:
    """
    The class that reads this event, of several that have its type: that of its version, else the oldest newer one
    whose upcasters take it, else the newest that can read a newer version. If none can, the newest, which raises.
    """
    known = list(events)
    if len(known) == 1:
        return known[0]  # as nearly always
    known.sort(key=lambda event: event.event_version)
    for event in known:
        if covers(event, envelope.version):
            return event
    return next((event for event in reversed(known) if is_readable(event, envelope)), known[-1])
