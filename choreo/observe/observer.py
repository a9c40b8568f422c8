"""The observer of a service: looks at the whole platform. ``app.observe``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.delivery.undeclared import UndeclaredHandlers, is_handler
from choreo.observe.division import divisions
from choreo.observe.map import IdleQueue, Map, MappedService, drawn
from choreo.store.port import Store
from choreo.store.presence import Presence
from choreo.store.register import UnheardType

if TYPE_CHECKING:
    # Each method imports what answers it: a command asks one question, and the answers to all of them are many files.
    from choreo.observe.broker_look import BrokerLook
    from choreo.observe.cause import Cause
    from choreo.observe.effects import Effects
    from choreo.observe.evidence import Evidence
    from choreo.observe.overview import Overview
    from choreo.observe.recent import RecentStory
    from choreo.observe.stuck import Stuck
    from choreo.observe.top import Top
    from choreo.observe.trace import Trace
    from choreo.observe.why_not import WhyNot


class Observer:
    """
    Looks at every service that uses this store. It changes nothing.

    ``queue_of`` is a callback: it returns the name of a handler's queue. ``waiting_in`` is a callback: it gets names of
    queues, and returns the number of messages in each queue that exists; it may raise anything. ``new_top`` is a
    callback: it returns a `Top`. ``look`` is a callback: it looks for texts in queues. ``store_in`` is a callback: it
    returns the store of another namespace.
    """

    def __init__(
        self,
        store: Store,
        queue_of: Callable[[str], str],
        waiting_in: Callable[[Sequence[str]], Mapping[str, int]],
        undeclared: UndeclaredHandlers,
        new_top: Callable[[], Top],
        *,
        look: Callable[[Sequence[str], Sequence[str]], BrokerLook],
        store_in: Callable[[str], Store],
        namespace: str = "",
    ) -> None:
        self._store, self._queue_of = store, queue_of
        self._waiting_in, self._undeclared = waiting_in, undeclared
        self._new_top = new_top
        self._look, self._store_in, self._namespace = look, store_in, namespace

    def trace(self, what: str, *, everything: bool = False) -> list[Trace]:
        """
        The story of a subject, an event, a dead letter or a story, given by its id: the newest one, or every one.

        Asks the store and the broker, and consumes nothing. Empty if nothing is known of it. Raises `StoreError`.
        """
        from choreo.observe.tracer import Tracer

        evidence = self._gather(what)
        chosen = evidence.stories if everything else evidence.stories[:1]
        return [Tracer(evidence, story).trace([one for one in evidence.stories if one != story]) for story in chosen]

    def recent(self, seconds: float = 86_400.0, most: int = 50) -> list[RecentStory]:
        """
        Stories in which something happened within the last ``seconds``, newest first; ``most`` of them.

        Of a busy handler only the newest runs are read, so it may be missing in what is told of a story. Raises
        `StoreError`.
        """
        from choreo.observe.recent import recent_stories

        runs = [run for name in self._store.handlers() for run in self._store.recent(name, seconds, 4 * most)]
        return recent_stories(runs, most)

    def why_not(self, event_type: str, subject: str) -> WhyNot:
        """
        Why no event of this type was announced about this subject. It may also be the id of an event or a story.

        Asks the store and the broker, and consumes nothing. Raises `StoreError`.
        """
        from choreo.observe.elsewhere import Elsewhere
        from choreo.observe.walk import answered

        elsewhere = Elsewhere(self._store, self._namespace, self._store_in)
        return answered(self._gather(subject), event_type, elsewhere)

    def effects(self, what: str) -> Effects:
        """
        The effects about this subject that a handler can undo: which stand, and which were undone, and why.

        ``what`` may also be the id of an event or a story. Asks the store and the broker. Raises `StoreError`.
        """
        from choreo.observe.effects import Accountant
        from choreo.operate.joins import Joins

        return Accountant(self._gather(what), Joins(self._store, self._queue_of)).effects()

    def elsewhere(self, event_type: str, subject: str) -> Cause | None:
        """What other namespaces on the store's server know of this type, or of this subject; None if nothing."""
        from choreo.observe.elsewhere import Elsewhere

        return Elsewhere(self._store, self._namespace, self._store_in).seen(event_type, subject)

    def heard_elsewhere(self, event_type: str) -> Mapping[str, Sequence[str]]:
        """Other namespaces on the store's server → the services in each that hear this type. Raises `StoreError`."""
        from choreo.observe.elsewhere import Elsewhere

        return Elsewhere(self._store, self._namespace, self._store_in).hearers(event_type)

    def _gather(self, what: str) -> Evidence:
        from choreo.observe.gathering import Gathering

        return Gathering(self._store, self._queue_of, self._look, self.map).about(what)

    def top(self, *only: str) -> Overview:
        """
        The state of the whole platform, with all handlers, or those of these services and handlers.

        Asks the store and the broker. The rate of incoming events is not known: it needs two looks, see `watch`.
        Raises `StoreError`.
        """
        with closing(self.watch()) as top:
            return top.look(*only)

    def watch(self) -> Top:
        """What looks at the state of the platform again and again. Close it at the end."""
        return self._new_top()

    def stuck(self, *only: str, older: float = 0.0) -> list[Stuck]:
        """
        All that waits and does not go on for longer than ``older`` seconds, the oldest first.

        Of all services, or of these services and handlers. Asks the store and the broker. Raises `StoreError`.
        """
        from choreo.observe.stuck import stuck_in

        return stuck_in(self.top(*only), self._store, older, is_all=not only)

    def map(self) -> Map:
        """
        The map of the platform as its programs have told the store: see `choreo.observe.map.Map`.

        A service stays on the map when its workers have stopped. Raises `StoreError`.
        """
        presences = {service: self._store.presence(service) for service in self._store.services()}
        descriptions: dict[str, list[ServiceDescription]] = {}
        faults: list[str] = []
        for service, presence in presences.items():
            descriptions[service] = list(self._read(service, presence, faults))
        queues = {service: self._queues(told) for service, told in descriptions.items()}
        unheard = self._store.unheard()
        waiting = self._waiting([queue for names in queues.values() for queue in names])
        return drawn(
            [described for told in descriptions.values() for described in told],
            seen=_seen(presences, unheard),
            lost={kind: (known.count, known.last) for kind, known in unheard.items()},
            services=[
                self._service(name, presence, queues[name], waiting)
                for name, presence in presences.items()
                # The command line asks, and neither hears nor announces.
                if descriptions[name] or presence.announced
            ],
            idle=self._idle(presences, queues, waiting),
            faults=faults,
            paused=self._store.pauses().values(),
        )

    def _read(self, service: str, presence: Presence, faults: list[str]) -> Iterator[ServiceDescription]:
        if not presence.current:
            yield from self._bound(service)
        for text in presence.current:
            try:
                yield ServiceDescription.from_json(text)
            except ValueError as error:
                faults.append(f"{service}: what it declares cannot be read: {error}")

    def _bound(self, service: str) -> Iterator[ServiceDescription]:
        """What the bindings tell of a service whose workers run an older choreo: what it hears."""
        listening = self._store.listening(service)
        if listening is None:
            return
        handlers = []
        for name in self._store.handlers():
            patterns = sorted(pattern for queue, pattern in listening.bindings if queue == self._queue_of(name))
            if name.partition(".")[0] == service and patterns:
                handlers.append(HandlerDescription(name, tuple(patterns)))
        yield ServiceDescription(service, tuple(handlers))

    def _queues(self, descriptions: Sequence[ServiceDescription]) -> dict[str, bool]:
        """The queues of a service. Those of its handlers come with True; those of notices and tasks with False."""
        queues = {self._queue_of(handler.name): True for told in descriptions for handler in told.handlers}
        for service in {told.service for told in descriptions if queues}:
            queues |= {self._queue_of(name): False for name in (service, f"{service}.dead_letters")}
        return queues

    def _waiting(self, queues: Sequence[str]) -> Mapping[str, int] | None:
        try:
            return self._waiting_in(queues)
        except Exception:  # the brokers' clients raise dozens of types
            return None

    def _idle(
        self,
        presences: Mapping[str, Presence],
        queues: Mapping[str, Mapping[str, bool]],
        waiting: Mapping[str, int] | None,
    ) -> Iterator[IdleQueue]:
        for service, presence in presences.items():
            consumed = {queue for worker in presence.workers for queue in worker.queues}
            for queue in sorted(queues[service]) if presence.workers else ():
                number = None if waiting is None else waiting.get(queue, 0)
                # A service without ordinary tasks has a queue for them all the same.
                if queue not in consumed and (number or queues[service][queue]):
                    yield IdleQueue(queue, number)
        for gone in self._undeclared.find():
            if is_handler(gone.handler):
                yield IdleQueue(gone.queue, gone.messages, is_undeclared=True)

    def _service(
        self, name: str, presence: Presence, queues: Mapping[str, bool], waiting: Mapping[str, int] | None
    ) -> MappedService:
        workers = presence.workers
        return MappedService(
            name,
            len(workers) or self._older(name),
            tuple(sorted({worker.version for worker in workers if worker.version})),
            is_divided=bool(workers) and len(presence.current) > 1,
            division=", ".join(division.text for division in divisions({name: presence})),
            nodes=tuple(sorted({program.node for program in workers or presence.gone})),
            seen=presence.seen,
            waiting=None if waiting is None else sum(waiting.get(queue, 0) for queue in queues),
            has_handlers=bool(queues),
        )

    def _older(self, service: str) -> int:
        """The number of live workers that run a choreo which does not report itself."""
        listening = self._store.listening(service)
        return 0 if listening is None else len(listening.workers)


def _seen(presences: Mapping[str, Presence], unheard: Mapping[str, UnheardType]) -> dict[str, set[str]]:
    """Services with the types that they were seen to announce."""
    seen = {service: set(presence.announced) for service, presence in presences.items()}
    for kind, known in unheard.items():
        seen.setdefault(known.source, set()).add(kind)
    return seen
