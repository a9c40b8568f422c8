"""Looks for an event in the other namespaces on the store's server."""

from collections.abc import Callable
from contextlib import suppress

from choreo.delivery.undeclared import is_handler
from choreo.errors import StoreError
from choreo.events.patterns import matches
from choreo.observe.cause import Cause
from choreo.observe.words import clock
from choreo.printing import one_line
from choreo.store.port import Store

#: The most other namespaces that are asked who hears an event.
MOST_ASKED = 50


def heard_elsewhere(store: Store, own: str, store_in: Callable[[str], Store], event_type: str) -> list[str]:
    """
    The other namespaces in which a live worker hears this type, sorted. `MOST_ASKED` namespaces are asked.

    ``own`` and ``store_in`` are those of `seen_elsewhere`.
    """
    others = [name for name in store.namespaces() or () if name != own][:MOST_ASKED]
    return [name for name in others if _hears(store_in(name), event_type)]


def _hears(store: Store, event_type: str) -> bool:
    with suppress(StoreError):
        declared = [
            binding for service in store.services() for one in store.declared(service).values() for binding in one
        ]
        return any(matches(pattern, event_type) for _, pattern in declared)
    return False


def seen_elsewhere(
    store: Store, own: str, store_in: Callable[[str], Store], event_type: str, subject: str
) -> Cause | None:
    """
    What another namespace knows of this subject, or else of this type. None if none knows anything.

    ``own`` is the namespace of ``store``. ``store_in`` is a callback: it returns the store of a namespace.
    """
    others = [(name, store_in(name)) for name in store.namespaces() or () if name != own]
    # A namespace whose store cannot be read (a user with few rights) knows nothing for us.
    for name, other in others:
        with suppress(StoreError):
            if handler := next(
                (one for one in filter(is_handler, other.handlers()) if other.stories(one, subject)), ""
            ):
                return _cause(name, f"{one_line(subject)} is known in the namespace {name!r}: {handler} had its events")
    for name, other in others:
        with suppress(StoreError):
            if (unheard := other.unheard().get(event_type)) is not None:
                when = clock(unheard.last, store.now())
                what = f"{unheard.source} announced {event_type} in the namespace {name!r}, where no handler hears it"
                return _cause(name, f"{what} ({unheard.count} so far, the last at {when})", unheard.last)
            for service in other.services():
                at = other.presence(service).announced.get(event_type)
                if at:
                    when = clock(at, store.now())
                    what = f"{service} announces {event_type} in the namespace {name!r} (since {when}), and not in"
                    return _cause(name, f"{what} {own!r}", at)
    return None


def _cause(name: str, text: str, at: float | None = None) -> Cause:
    do = f"choreo --namespace {name} map" if name else "choreo map, without --namespace"
    return Cause("another namespace", text, f"{do}; correct choreo_namespace of the publisher", since=at)
