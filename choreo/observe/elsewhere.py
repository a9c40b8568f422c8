"""Looks for an event in the other namespaces on the store's server."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice

from choreo.declare.description import ServiceDescription
from choreo.delivery.undeclared import is_handler
from choreo.errors import StoreError
from choreo.events.patterns import matches
from choreo.observe.cause import Cause, command
from choreo.observe.map import called, is_wild
from choreo.observe.words import clock, place
from choreo.printing import one_line
from choreo.store.port import Store

#: The most other namespaces that are asked who hears a type.
MOST_ASKED = 50
#: The seconds of the record in which a type is looked for, and how many of a handler's runs are read.
RECENT, MOST_RUNS = 7 * 86_400.0, 200


class Elsewhere:
    """
    The other namespaces. One whose store cannot be read (a user with few rights) knows nothing for us.

    ``own`` is the namespace of ``store``. ``store_in`` is a callback: it returns the store of a namespace.
    """

    def __init__(self, store: Store, own: str, store_in: Callable[[str], Store]) -> None:
        self._store, self._own, self._store_in = store, own, store_in

    def seen(self, event_type: str, subject: str) -> Cause | None:
        """
        What another namespace knows of this subject, or else of this type. None if none knows anything.

        Of a type that was ever announced in this namespace, outside of handlers or by one of them, another one tells
        nothing: both may be as they should be.
        """
        return self._with_subject(subject) or self._with_type(event_type)

    def strays(self, event_type: str) -> str:
        """
        Namespaces in which events of this type reached no queue, for people; "" if there are none.

        It is counted, and not about which subjects: any event of this type may be among them. `MOST_ASKED` namespaces
        are asked.
        """
        found = []
        for name, other in islice(self._others(), MOST_ASKED):
            with suppress(StoreError):
                if (lost := other.unheard().get(event_type)) is not None:
                    found.append(f"{place(name)} ({lost.count}x, the last at {clock(lost.last, self._store.now())})")
        return ", ".join(found)

    def hearers(self, event_type: str) -> Mapping[str, Sequence[str]]:
        """
        Namespace → the services in it whose handlers name this type. Without the namespaces that have none.

        `MOST_ASKED` namespaces are asked.
        """
        found: dict[str, dict[str, None]] = {}
        for name, other in islice(self._others(), MOST_ASKED):
            with suppress(StoreError):
                for service in other.services():
                    if _hears(other, service, event_type):
                        found.setdefault(name, {})[service] = None
        return {name: list(services) for name, services in found.items()}

    def _others(self) -> Iterator[tuple[str, Store]]:
        return ((name, self._store_in(name)) for name in self._store.namespaces() or () if name != self._own)

    def _with_subject(self, subject: str) -> Cause | None:
        for name, other in self._others():
            with suppress(StoreError):
                known = (one for one in filter(is_handler, other.handlers()) if other.stories(one, subject))
                if handler := next(known, ""):
                    text = f"{one_line(subject)} is known in {place(name)}: {handler} had its events"
                    return _cause(name, text, "trace", subject)
        return None

    def _with_type(self, event_type: str) -> Cause | None:
        if not event_type or _announcer(self._store, event_type):
            return None
        for name, other in self._others():
            with suppress(StoreError):
                if seen := _announcer(other, event_type):
                    if self._has_run(event_type):
                        return None
                    who, what = seen
                    return _cause(name, f"{called(who)} announced {event_type} in {place(name)} {self._when(*what)}")
        return None

    def _has_run(self, event_type: str) -> bool:
        """True if a handler of this namespace has announced or handled an event of this type, as far as is recorded."""
        recorded = filter(is_handler, self._store.handlers() if self._store.recording else ())
        return any(
            event_type in (run.type, *(kind for kind, _ in run.announced), *(kind for kind, _ in run.parts))
            for handler in recorded
            for run in self._store.recent(handler, RECENT, MOST_RUNS)
        )

    def _when(self, at: float, count: int) -> str:
        when = clock(at, self._store.now())
        if count:
            return f"({count}x, the last at {when}), where no handler heard it, and nobody did in {place(self._own)}"
        return f"(since {when}), and nobody did in {place(self._own)}"


def _announcer(store: Store, event_type: str) -> tuple[str, tuple[float, int]] | None:
    """A service that was seen to announce this type; when, and how many reached no queue. None if none was."""
    if (unheard := store.unheard().get(event_type)) is not None:
        return unheard.source, (unheard.last, unheard.count)
    for service in store.services():
        if at := store.presence(service).announced.get(event_type):
            return service, (at, 0)
    return None


def _hears(store: Store, service: str, event_type: str) -> bool:
    return any(
        matches(pattern, event_type) and not is_wild(pattern)
        for text in store.presence(service).current
        for described in _read(text)
        for handler in described.handlers
        for pattern in handler.hears
    )


def _read(text: str) -> Iterator[ServiceDescription]:
    """The description; nothing if it cannot be read: the map of that namespace tells so."""
    with suppress(ValueError):
        yield ServiceDescription.from_json(text)


def _cause(name: str, text: str, *words: str) -> Cause:
    look = command("choreo", "--namespace", name, *(words or ("map",)))
    return Cause("another namespace", text, (look, "# correct choreo_namespace of the publisher"))
