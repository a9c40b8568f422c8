"""
The state of the whole platform at a glance: handlers, versions, servers, loops, and what falls due next.

It only reads. A look costs a few calls of the store per handler, and one of the broker.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from choreo.broker.cloud_message import INTAKE
from choreo.broker.depths import Depth
from choreo.delivery.undeclared import UndeclaredHandlers, is_handler, service_of
from choreo.masking import shown_url
from choreo.observe.division import divisions
from choreo.observe.failures import newest_error
from choreo.observe.growth import Growth
from choreo.observe.handlers import EACH, NEW, WINDOW, Facts, HandlerState, versions
from choreo.observe.loops import Loop, loops_in
from choreo.observe.overview import Coming, Intake, Overview, Version
from choreo.observe.server import Server
from choreo.store.claims import OUTBOX_GRACE
from choreo.store.port import Store
from choreo.store.presence import Presence
from choreo.store.register import UnheardType
from choreo.store.runs import SHELVES, Run
from choreo.store.schedule import DEADLINE_PREFIX, DELAYED, Backlog

#: Seconds of the past in which events that reached no queue are told.
DAY = 86_400.0
#: Seconds of the future that `Coming` is about.
HOUR = 3600.0
#: The most entries of one schedule that are looked at for `Coming`.
MOST_COMING = 1000
#: Seconds of the past in which loops are looked for.
LOOP_WINDOW = 300.0
#: A story with so many of the last runs of a handler is looked at as a whole.
SUSPECT = 15


class Queues(Protocol):
    """`choreo.broker.depths.Depths`, as this file needs it."""

    def look(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """Queue → what waits in it. Raises the broker's errors."""

    def namespaces(self) -> list[str] | None:
        """The namespaces on this broker; None if it does not tell."""

    def server(self) -> Mapping[str, Any] | None:
        """What the broker's Redis tells of itself; None if it is none."""

    def close(self) -> None:
        """Close the connection. A later call opens it again."""


class Top:
    """
    Looks at a platform, again and again. Not safe in threads.

    `look` raises `StoreError` if the store does not answer. The rate of incoming events needs two looks, or a `sample`
    some time before the first.
    ``queue_of`` is a callback: it returns the name of a handler's queue. ``own_redis`` is the URL of the broker if it
    is a Redis, and not that of the store.
    """

    def __init__(
        self,
        store: Store,
        depths: Queues,
        queue_of: Callable[[str], str],
        undeclared: UndeclaredHandlers,
        *,
        namespace: str = "",
        own_redis: str = "",
    ) -> None:
        self._store, self._depths = store, depths
        self._queue_of, self._undeclared = queue_of, undeclared
        self._namespace, self._own_redis = namespace, own_redis
        self._growth = Growth()

    def look(self, *only: str) -> Overview:
        """The platform as it is now, with all handlers, or those of these services and handlers."""
        now = self._store.now()
        names = self._names(only)
        intake = self._queue_of(INTAKE)
        queues = [*(self._queue_of(name) for name in names), *([] if only else [intake])]
        depths, error = self._asked(lambda: self._depths.look(queues))
        presences = {service: self._store.presence(service) for service in dict.fromkeys(map(service_of, names))}
        facts = self._facts(names, depths, presences, now)
        namespaces, _ = self._asked(self._depths.namespaces)
        return Overview(
            datetime.fromtimestamp(now, UTC),
            self._namespace,
            [state for state in self._with_rates(now, [fact.state() for fact in facts]) if _is_shown(state)],
            versions=[version for service, presence in presences.items() for version in _versions(service, presence)],
            divided=divisions(presences),
            servers=self.servers(),
            namespaces=namespaces,
            loops=self._loops(facts, now),
            coming=self._coming({fact.name: fact.backlog for fact in facts}, now, with_delayed=not only),
            delayed=None if only else self._store.backlog(DELAYED),
            intake=None if only or depths is None else _intake(intake, depths, presences),
            unheard=self._unheard(now),
            broker_error=error,
        )

    def sample(self, *only: str) -> None:
        """Count only what waits, so that the next `look` knows how many events came in meanwhile."""
        names = self._names(only)
        depths, _ = self._asked(lambda: self._depths.look([self._queue_of(name) for name in names]))
        found = {name: depths.get(self._queue_of(name), Depth(0)).count for name in names} if depths else {}
        self._growth.note(self._store.now(), found)

    def _names(self, only: Sequence[str]) -> list[str]:
        return [name for name in self._store.handlers() if not only or {name, service_of(name)} & set(only)]

    def _facts(
        self, names: Sequence[str], depths: Mapping[str, Depth] | None, presences: Mapping[str, Presence], now: float
    ) -> list[Facts]:
        """What is known of each handler. ``depths`` is None if the broker did not answer."""
        queues = {name: self._queue_of(name) for name in names}
        gone, pauses = set(self._undeclared.names(*presences)), self._store.pauses(names)
        older = {service: self._older(service, presence) for service, presence in presences.items()}
        return [
            Facts(
                name,
                queue,
                now,
                None if depths is None else depths.get(queue, Depth(0)),
                presences[service_of(name)],
                older[service_of(name)],
                letters := self._store.letter_count(name),
                times := self._store.letter_times(name) if letters else None,
                newest_error(self._store, name, now) if times and times[1] > now - NEW else "",
                self._store.backlog(name),
                self._recent(name),
                self._store.recording.sample,
                name in gone,
                pauses.get(name),
            )
            for name, queue in queues.items()
        ]

    def _older(self, service: str, presence: Presence) -> Sequence[frozenset[str]]:
        """The queues that each live worker of an older choreo declares: it does not tell of its presence."""
        if any(program.is_worker for program in (*presence.workers, *presence.gone)):
            return ()
        listening = self._store.listening(service)
        return () if listening is None else listening.workers

    def _recent(self, name: str) -> Sequence[Run] | None:
        if not is_handler(name) or not self._store.recording:
            return None
        return self._store.recent(name, WINDOW, EACH * SHELVES)

    def close(self) -> None:
        """Close the connection to the broker."""
        self._depths.close()

    def _asked(self, ask: Callable[[], Any]) -> tuple[Any, str]:
        """The answer of the broker, and ""; or None, and why there is none."""
        try:
            return ask(), ""
        except Exception as error:  # the brokers' clients raise dozens of types
            self._depths.close()
            return None, str(error) or type(error).__name__

    def _with_rates(self, now: float, states: Sequence[HandlerState]) -> list[HandlerState]:
        self._growth.note(now, {state.name: state.waiting for state in states if state.waiting is not None})
        return [self._growth.of(state, now) for state in states]

    def servers(self) -> list[Server]:
        """The Redis servers of the platform. Raises `StoreError`."""
        found = [Server.of(_address(name), info) for name, info in self._store.servers().items()]
        if self._own_redis:
            info, _ = self._asked(self._depths.server)
            found += [Server.of(_address(self._own_redis), info)] if info else []
        return found

    def _loops(self, facts: Sequence[Facts], now: float) -> list[Loop]:
        suspects = {
            (fact.name, *story)
            for fact in facts
            for story, count in Counter((run.story, run.subject) for run in fact.runs or ()).items()
            if count >= SUSPECT
        }
        runs = (run for suspect in suspects for run in self._store.runs(*suspect))
        return loops_in(run for run in runs if run.at > now - LOOP_WINDOW)

    def _coming(self, backlogs: Mapping[str, Backlog], now: float, *, with_delayed: bool) -> Coming:
        names = [name for name, backlog in backlogs.items() if backlog.later]
        kinds = {"retries": 0, "deadlines": 0, "delayed": 0}
        first: tuple[float, str] | None = None
        is_more = False
        for name in [*names, DELAYED] if with_delayed else names:
            entries = self._store.upcoming(name, HOUR, MOST_COMING)
            is_more = is_more or len(entries) == MOST_COMING
            for key, at in entries:
                kind = _kind(key, at - now)
                if kind:
                    kinds[kind] += 1
                    first = min(first or (at, name), (at, name))
        return Coming(**kinds, first_at=first and first[0], first=first[1] if first else "", is_more=is_more)

    def _unheard(self, now: float) -> dict[str, UnheardType]:
        """The types of the last day."""
        return {kind: unheard for kind, unheard in self._store.unheard().items() if unheard.last > now - DAY}


def _address(url: str) -> str:
    """The host, port and database in a URL, without user, password and options."""
    return (shown_url(url).partition(" ")[0].rpartition("@")[2] or url).rpartition("//")[2].partition("?")[0]


def _kind(key: str, wait: float) -> str:
    """The kind of an entry in a schedule; "" for one that is about to leave."""
    if key.startswith(DEADLINE_PREFIX):
        return "deadlines"
    if key.startswith(("retry:", "held:")):
        return "retries"
    # Events of the outbox have names of the same form, and leave at once.
    return "delayed" if key.startswith("event:") and wait > OUTBOX_GRACE else ""


def _is_shown(state: HandlerState) -> bool:
    """True for a handler; for another queue of a service, or a handler that is gone, only if something is left."""
    if is_handler(state.name) and not state.is_undeclared:
        return True
    return bool(state.pause or state.waiting or state.dead_letters or state.backlog.total)


def _versions(service: str, presence: Presence) -> list[Version]:
    return [Version(service, *found) for found in versions(presence.workers)]


def _intake(queue: str, depths: Mapping[str, Depth], presences: Mapping[str, Presence]) -> Intake:
    workers = [worker for presence in presences.values() for worker in presence.workers if queue in worker.queues]
    return Intake(queue, depths.get(queue, Depth(0)).count, len(workers))
