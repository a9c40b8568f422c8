"""Handlers as they are now: what waits for each, and what failed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from choreo.broker.depths import Depth
from choreo.delivery.undeclared import is_handler, service_of
from choreo.store.port import Store
from choreo.store.schedule import DELAYED, Backlog


@dataclass(frozen=True, slots=True)
class HandlerState:
    """One handler, or another queue of a service, as it is now."""

    #: The name: of a handler, a service (its ordinary tasks), or the queue of a service's notices.
    name: str
    #: Its queue on the broker. None: there is none, or the broker did not answer.
    depth: Depth | None
    #: The number of its dead letters.
    letters: int
    #: Its schedule.
    backlog: Backlog
    #: How many events did not count for a join, by reason. Empty for a handler of single events.
    ignored: Mapping[str, int] = field(default_factory=dict)
    #: True if it is a join.
    is_join: bool = False

    @property
    def service(self) -> str:
        """The name of its service."""
        return service_of(self.name)

    @property
    def is_handler(self) -> bool:
        """False for the other queues of a service."""
        return is_handler(self.name)


class Handlers:
    """
    The handlers of every service that uses one store.

    ``queue_of`` is a callback: it returns the name of a handler's queue. ``look`` is a callback: it returns what waits
    in queues, and raises anything if the broker does not answer.
    """

    def __init__(
        self,
        store: Store,
        queue_of: Callable[[str], str],
        look: Callable[[Sequence[str]], Mapping[str, Depth]],
    ) -> None:
        self._store, self._queue_of, self._look = store, queue_of, look
        #: The error of the broker at the last look; None if it answered.
        self.trouble: Exception | None = None

    def states(self) -> list[HandlerState]:
        """All handlers and other queues, by name. Raises `StoreError`. The broker's error is kept in `trouble`."""
        names = self._store.handlers()
        depths, joins = self._depths(names), self._store.joins()
        return [self._state(name, depths.get(self._queue_of(name)), name in joins) for name in names]

    def delayed(self) -> Backlog:
        """The delayed events that were announced outside of handlers. Raises `StoreError`."""
        return self._store.backlog(DELAYED)

    def workers(self) -> Iterator[tuple[str, int]]:
        """Each service, and how many of its workers live. Raises `StoreError`."""
        for service in sorted({service_of(name) for name in self._store.handlers()}):
            yield service, len(self._store.declared(service))

    def _depths(self, names: Sequence[str]) -> Mapping[str, Depth]:
        self.trouble = None
        try:
            return self._look([self._queue_of(name) for name in names])
        except Exception as error:  # the brokers' clients raise dozens of types
            self.trouble = error
            return {}

    def _state(self, name: str, depth: Depth | None, is_join: bool) -> HandlerState:
        store = self._store
        ignored = store.tally(name) if is_join else {}
        return HandlerState(name, depth, store.letter_count(name), store.backlog(name), ignored, is_join)
