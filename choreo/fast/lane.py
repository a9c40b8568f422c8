"""The entry to the fast lane: `choreo.runtime` makes one `Lane` per service. See README.md in this folder."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from choreo.broker.incoming import EventText
from choreo.broker.queue import GuardedQueue
from choreo.broker.rabbitmq.consuming import ConsumingChannel as RabbitChannel
from choreo.broker.redis.consuming import ConsumingChannel
from choreo.broker.redis.keys import INBOX
from choreo.declare.join import Join
from choreo.fast.ahead import Ahead
from choreo.fast.bundles import Bundles
from choreo.fast.channel import ChannelLane, TakenHandler
from choreo.fast.claim_group import release
from choreo.fast.coroutines import Coroutines
from choreo.fast.fused_store import FusedStore
from choreo.fast.progress import Progress
from choreo.fast.rabbit_channel import RabbitLane
from choreo.fast.task import FastHandlerTask
from choreo.store.port import Store

#: The most bundles that are with the children of a prefork pool at a time.
SLOTS = 1024


class Lane:
    """
    The fast lane of one service. Without it the service keeps the same promises, and is slower.

    ``store`` returns the service's store, ``tasks`` its Celery tasks by name; both are called when a worker consumes.
    `task_class` is the base class of the handlers' tasks. `on_consume` is called for each handler's queue before a
    worker consumes it, once per connection.
    """

    task_class = FastHandlerTask

    def __init__(self, store: Callable[[], Store], tasks: Callable[[], Mapping[str, Any]]) -> None:
        self._store, self._tasks = store, tasks
        #: True in a worker that runs handlers in its own process: every pool but prefork.
        self.in_process = False
        #: The runs of `async def` handlers in such a worker.
        self.coroutines = Coroutines()
        #: Handler's name → its shortcut, in a worker of the pools solo and prefork.
        self.shortcuts: dict[str, TakenHandler] = {}
        #: The handlers whose deliveries `InProcess` runs: none that are collected, parked or observed before.
        self.direct: set[str] = set()
        #: In a worker of the prefork pool and its children: see `choreo.fast.progress`.
        self.progress: Progress | None = None
        #: In the main process of such a worker, once it has connected.
        self.bundles: Bundles | None = None

    def use_children(self) -> None:
        """Prepare for a prefork pool. Called before it forks its children."""
        self.progress = Progress(SLOTS)

    def bundles_of(self, consumer: Any) -> Bundles | None:
        """The bundles of this consumer (Celery's), which outlive its connections; None without an event loop."""
        if self.progress is None or consumer.hub is None or consumer.controller.semaphore is None:
            return None
        if self.bundles is None or self.bundles.consumer is not consumer:
            self.bundles = Bundles(consumer, self.progress)
        return self.bundles

    def look(self) -> None:
        """Note in Celery's worker state which runs the children have in hand."""
        if self.bundles is not None:
            self.bundles.look()

    def on_consume(self, queue: GuardedQueue) -> Mapping[str, Any] | None:
        """
        Attach the fast lane to the channel that is about to consume a handler's queue.

        Returns the consumer arguments; None if the queue needs none, or is consumed by another transport.
        """
        channel, store = queue.channel, self._store()
        if isinstance(channel, RabbitChannel):
            self._on_rabbitmq(channel, queue)
        if not isinstance(channel, ConsumingChannel):
            return None
        fused, handler = isinstance(store, FusedStore), queue.handler
        task = self._tasks().get(handler)
        subscription = getattr(task, "subscription", None)
        is_join = isinstance(subscription, Join)
        # Its deliveries take the plain way: see `FastHandlerTask.fast_delivery`.
        is_sequential = getattr(subscription, "sequential", None) is not None
        if channel.has_event_loop:
            if not isinstance(channel.hooks, ChannelLane):
                channel.hooks = ChannelLane(channel, self.coroutines)
                if isinstance(store, FusedStore):
                    store.load_scripts()
            ahead = Ahead(task) if fused and is_join and self.in_process else None
            channel.hooks.serve(queue.name, ahead, self.shortcuts.get(handler))
        # A join is claimed by its parts, so taking a message from its queue must not claim anything.
        if not isinstance(store, FusedStore) or is_join or is_sequential:
            return None
        return {INBOX: store.inbox(handler)}

    def release(self, requests: Iterable[Any]) -> None:
        """Give up the claims that were made ahead for these requests, which go back to their queues."""
        events = [request.args[0] for request in requests if request.args]
        release(self._store(), [event for event in events if isinstance(event, EventText)])

    def _on_rabbitmq(self, channel: RabbitChannel, queue: GuardedQueue) -> None:
        if not channel.has_event_loop:
            return
        task = self._tasks().get(queue.handler)
        if not isinstance(task, FastHandlerTask):
            return
        # What waits for a turn or a slot must not be claimed ahead.
        if task.subscription.sequential is not None or task.subscription.concurrency is not None:
            return
        if not isinstance(channel.hooks, RabbitLane):
            channel.hooks = RabbitLane(channel, task.runtime, self.direct, in_process=self.in_process)
        channel.hooks.serve(queue.name, task, self.shortcuts.get(queue.handler))
