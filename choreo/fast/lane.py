"""The entry to the fast lane: `choreo.runtime` makes one `Lane` per service. See README.md in this folder."""

from collections.abc import Callable, Mapping
from typing import Any

from choreo.broker.queue import GuardedQueue
from choreo.broker.redis.consuming import ConsumingChannel
from choreo.broker.redis.keys import INBOX
from choreo.declare.join import Join
from choreo.fast.ahead import Ahead
from choreo.fast.channel import ChannelLane, TakenHandler
from choreo.fast.fused_store import FusedStore
from choreo.fast.task import FastHandlerTask
from choreo.store.port import Store


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
        #: Handler's name → its shortcut, in a worker of the solo pool: see `choreo.fast.shortcut`.
        self.shortcuts: dict[str, TakenHandler] = {}

    def on_consume(self, queue: GuardedQueue) -> Mapping[str, Any] | None:
        """
        Attach the fast lane to the channel that is about to consume a handler's queue.

        Returns the consumer arguments; None if the queue needs none, or is consumed by another transport.
        """
        channel, store = queue.channel, self._store()
        if not isinstance(channel, ConsumingChannel):
            return None
        fused, handler = isinstance(store, FusedStore), queue.handler
        task = self._tasks().get(handler)
        is_join = isinstance(getattr(task, "subscription", None), Join)
        if channel.has_event_loop:
            if not isinstance(channel.hooks, ChannelLane):
                channel.hooks = ChannelLane(channel)
                if isinstance(store, FusedStore):
                    store.load_scripts()
            ahead = Ahead(task) if fused and is_join and self.in_process else None
            channel.hooks.serve(queue.name, ahead, self.shortcuts.get(handler))
        # A join is claimed by its parts, so taking a message from its queue must not claim anything.
        return {INBOX: store.inbox(handler)} if isinstance(store, FusedStore) and not is_join else None
