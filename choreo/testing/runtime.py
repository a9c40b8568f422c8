"""The runtime of a service in a test: its ports are in memory, and everything else is the service's own."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Any

from choreo.broker.depths import Depth
from choreo.broker.publisher import Publisher
from choreo.broker.queued import Queued
from choreo.broker.topology import Topology
from choreo.cached import cached_property
from choreo.declare.context import Context, context_of
from choreo.delivery.lease_keeper import LeaseKeeper
from choreo.events.envelope import Envelope
from choreo.observe.broker_look import BrokerLook
from choreo.observe.readings import Readings
from choreo.observe.top import Top
from choreo.runtime import Runtime
from choreo.service import Service
from choreo.store.claims import Claim
from choreo.store.memory import MemoryStore
from choreo.store.slots import Slot
from choreo.store.turns import Turn
from choreo.testing.queues import PendingDelivery


class StageRuntime(Runtime):
    """
    Stands in for the runtime of a service. It opens no connection, starts no thread and reads no configuration.

    ``real`` is the runtime that it stands in for. Topology and fast lane are those of ``real``: Celery may keep them
    for longer than the test.
    """

    def __init__(
        self, real: Runtime, store: MemoryStore, publisher: Publisher, now: Callable[[], datetime] | None = None
    ) -> None:
        super().__init__(real.service_name, real.terms, real.subscriptions, real._settings, real._connect, real._tasks)
        self._real, self._store, self._publisher = real, store, publisher
        self.describe, self.module = real.describe, real.module
        #: Callback: tells the store what the services of the stage declare, and returns the deliveries that wait.
        self.pending: Callable[[], Sequence[PendingDelivery]] = tuple
        if now is not None:
            self.now = now
        # `choreo.Service.apublish` would make it in a thread.
        self.publisher  # noqa: B018

    @cached_property
    def store(self) -> MemoryStore:
        """The store of the test."""
        return self._store

    @cached_property
    def publisher(self) -> Publisher:
        """The publisher of the test."""
        return self._publisher

    @property
    def signing(self) -> None:
        """None: a stage signs nothing, and trusts everybody."""

    @cached_property
    def leases(self) -> LeaseKeeper:
        """A keeper without a thread: there is no other worker that could take a claim."""
        return Unkept(self.store, self.terms.lease.total_seconds())

    @cached_property
    def topology(self) -> Topology:
        """The topology of the service itself."""
        return self._real.topology

    @cached_property
    def contexts(self) -> Callable[..., Context]:
        """Makes plain contexts: a test records no spans."""
        return context_of

    @cached_property
    def lane(self) -> Any:
        """The fast lane of the service itself."""
        return self._real.lane

    def waiting_in(self, queues: Sequence[str]) -> Mapping[str, int]:  # noqa: ARG002
        """Nothing: the queues of a test hold only messages of handlers that are declared."""
        return {}

    def new_readings(self) -> Readings:
        """Reads the store and the pending deliveries of the test."""
        return Readings(self.store, StageQueues(self.pending), self.queue_of)

    def new_top(self) -> Top:
        """Looks at the store and at the pending deliveries of the test. Each service counts as having a worker."""
        return Top(self.store, StageQueues(self.pending), self.queue_of, self.undeclared)

    def look_at_broker(self, queues: Sequence[str], texts: Sequence[str]) -> BrokerLook:  # noqa: ARG002
        """All deliveries that wait on the stage."""
        queued: dict[str, list[tuple[Envelope, int]]] = defaultdict(list)
        for pending in self.pending():
            if pending.event is not None:
                queued[pending.handler].append((pending.event, pending.attempt))
        found = [
            Queued(handler, event, attempt, position=place, count=len(events))
            for handler, events in queued.items()
            for place, (event, attempt) in enumerate(events, start=1)
        ]
        return BrokerLook(found, is_open=True)

    def store_in(self, namespace: str) -> MemoryStore:  # noqa: ARG002
        """The store of the test: it has no other."""
        return self._store

    def queue_of(self, name: str) -> str:
        """The name of a queue. In a test it has no namespace."""
        return name


class StageQueues:
    """
    Looks into the queues of a stage.

    ``pending`` is a callback: it tells the store what the services declare, and returns the deliveries that wait.
    """

    def __init__(self, pending: Callable[[], Sequence[PendingDelivery]]) -> None:
        self._pending = pending

    def look(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """Queue → the deliveries that wait in it. Those of a stage have the names of their handlers."""
        waiting: dict[str, list[PendingDelivery]] = {queue: [] for queue in queues}
        for delivery in self._pending():
            waiting.setdefault(delivery.handler, []).append(delivery)
        return {queue: _depth(deliveries) for queue, deliveries in waiting.items()}

    def namespaces(self) -> None:
        """Nothing."""

    def server(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Do nothing."""


def _depth(deliveries: Sequence[PendingDelivery]) -> Depth:
    event = next((delivery.event for delivery in deliveries if delivery.event), None)
    if event is None:
        return Depth(len(deliveries))
    return Depth(len(deliveries), event.time.timestamp(), event.subject or "")


class Unkept(LeaseKeeper):
    """A lease keeper without a thread."""

    def kept(self, claim: Claim, holds: Sequence[Slot | Turn] = ()) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing for as long as the block runs."""
        return nullcontext()


@contextmanager
def standing_in(runtimes: Mapping[Service, Runtime]) -> Iterator[None]:
    """Let these runtimes stand in for those of their services while the block runs."""
    before = {app: app.runtime for app in runtimes}
    try:
        for app, runtime in runtimes.items():
            app.runtime = runtime
        yield
    finally:
        for app, runtime in before.items():
            app.runtime = runtime
