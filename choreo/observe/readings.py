"""
Readings: the few numbers of a platform that are worth to be kept over time, for `choreo.observe.prometheus`.

One reading is a few calls of the store for each handler, and one of the broker. `choreo top` reads more.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from choreo.broker.depths import Depth
from choreo.delivery.undeclared import service_of
from choreo.observe.server import Server
from choreo.operate.stories import COUNTERS
from choreo.store.pauses import Pause
from choreo.store.port import Store
from choreo.store.register import UnheardType
from choreo.store.schedule import DELAYED, Backlog


class LooksIntoQueues(Protocol):
    """`choreo.broker.depths.Depths`, as a reading needs it."""

    def look(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """Queue → what waits in it. Raises the broker's errors."""

    def close(self) -> None:
        """Close the connection. A later call opens it again."""


@dataclass(frozen=True, slots=True)
class HandlerReading:
    """One handler, or another queue of a service: its ordinary tasks, the notices of its dead letters."""

    name: str
    #: What waits in its queue. None: the broker did not answer, or there is no such queue.
    depth: Depth | None
    dead_letters: int
    backlog: Backlog
    is_join: bool = False
    #: How many events did not count for a join, by reason.
    ignored: Mapping[str, int] = field(default_factory=dict)
    #: For a story: how often it took each course. None: it is no story.
    courses: Mapping[str, int] | None = None
    #: Its pause; None: it is not paused.
    pause: Pause | None = None

    @property
    def service(self) -> str:
        """The name of its service."""
        return service_of(self.name)


@dataclass(frozen=True, slots=True)
class Reading:
    """The platform at one moment."""

    #: Seconds since 1970, by the store's clock.
    at: float
    handlers: Sequence[HandlerReading]
    #: The delayed events that were announced outside of handlers.
    delayed: Backlog
    #: Service → its live workers. Only services that ever had one.
    workers: Mapping[str, int]
    servers: Sequence[Server]
    #: The types of events that reached no queue.
    unheard: Mapping[str, UnheardType] = field(default_factory=dict)
    #: False if the broker did not answer.
    has_broker: bool = True


class Readings:
    """
    Reads the numbers of every service that uses one store. Not safe in threads. Nothing is changed.

    ``queue_of`` is a callback: it returns the name of a handler's queue.
    """

    def __init__(self, store: Store, depths: LooksIntoQueues, queue_of: Callable[[str], str]) -> None:
        self._store, self._depths, self._queue_of = store, depths, queue_of

    def take(self) -> Reading:
        """Read everything now. Raises `StoreError`."""
        store, names = self._store, self._store.handlers()
        depths, joins = self._look(names), {name: json.loads(text) for name, text in store.joins().items()}
        services, pauses = sorted(set(map(service_of, names))), store.pauses(names)
        handlers = [
            self._handler(name, (depths or {}).get(self._queue_of(name)), joins.get(name), pauses.get(name))
            for name in names
        ]
        return Reading(
            at=store.now(),
            handlers=handlers,
            delayed=store.backlog(DELAYED),
            workers=dict(self._workers(services)),
            servers=[Server.of(_place(url), info) for url, info in store.servers().items()],
            unheard=store.unheard(),
            has_broker=depths is not None,
        )

    def _workers(self, services: Iterable[str]) -> Iterator[tuple[str, int]]:
        for service in services:
            listening = self._store.listening(service)
            if listening is not None:  # else it only announces
                yield service, len(listening.workers)

    def _look(self, names: Sequence[str]) -> Mapping[str, Depth] | None:
        try:
            return self._depths.look([self._queue_of(name) for name in names])
        except Exception:  # the brokers' clients raise dozens of types
            self._depths.close()  # the next reading opens another connection
            return None

    def _handler(
        self, name: str, depth: Depth | None, join: Mapping[str, Any] | None, pause: Pause | None
    ) -> HandlerReading:
        """``join`` is the declaration of a join or a story; None for another handler."""
        store = self._store
        reading = HandlerReading(name, depth, store.letter_count(name), store.backlog(name), pause=pause)
        if join is None:
            return reading
        tally = store.tally(name)
        if "story" in join:
            return replace(reading, courses={course: tally.get(course, 0) for course in COUNTERS})
        if "undo" in join:
            return reading
        return replace(reading, is_join=True, ignored=tally)


def _place(url: str) -> str:
    """The place in a URL: ``host:6379/0``. No user, no password."""
    return url.rpartition("://")[2].rpartition("@")[2].partition("?")[0]
