"""The types under which other programs send events that choreo knows under a type of its own."""

from collections.abc import Iterable

from choreo.errors import DeclarationError
from choreo.events.event import event_classes
from choreo.events.patterns import matches


def foreign_types(patterns: Iterable[str]) -> dict[str, str]:
    """
    The foreign types of the events that these patterns hear → the types that choreo knows them under.

    Only classes that this program has imported count. Raises `DeclarationError` for a foreign type of two events.
    """
    heard = list(patterns)
    found: dict[str, str] = {}
    for event in event_classes():
        kind = event.event_type
        if event.event_foreign and any(matches(pattern, kind) for pattern in heard):
            for name in event.event_foreign:
                if found.setdefault(name, kind) != kind:
                    raise DeclarationError(
                        f"{name!r} is the foreign type of {found[name]} and of {kind}: an event of it would be both. "
                        f"Give it to one of them."
                    )
    return found
