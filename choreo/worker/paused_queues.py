"""The queues of paused handlers, in one worker: not consumed, or at a rate."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import amqp

from choreo.broker.incoming import UNCOUNTED, source_of
from choreo.worker.pauses import STOPPED
from choreo.worker.unbegun import take_back

logger = logging.getLogger(__name__)

#: The most seconds for which a worker on RabbitMQ holds a delivery that waits for the rate of a slowed handler.
#: RabbitMQ closes the channel of a consumer that has held one for half an hour.
HELD = 60.0


class PausedQueues:
    """
    Has a consumer follow the shares of a `choreo.worker.pauses.PauseKeeper`. ``consumer`` is Celery's.

    Its methods are called in the worker's main thread. An operator's `cancel_consumer` and `add_consumer`, like `-Q`,
    say which queues a worker consumes at all; a pause holds some of these back for a while.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        #: Queue → the share that is followed now.
        self._shares: dict[str, float] = {}
        #: Queues that are to be consumed once their handler is resumed.
        self._kept: set[str] = set()
        #: Handler → its own rate limit, while it is slowed down.
        self._own_limits: dict[str, Any] = {}

    @property
    def kept(self) -> frozenset[str]:
        """The queues that the worker does not consume because their handlers are paused."""
        return frozenset(self._kept)

    def holds(self, queue: str) -> bool:
        """True if the handler of this queue is paused or slowed down."""
        return queue in self._shares

    def connect(self) -> None:
        """Hold all queues of paused handlers back, before a new connection consumes anything."""
        self._shares, self._kept = {}, set()
        for queue in self._wanted():
            if queue in [known.name for known in self._consumer.task_consumer.queues]:
                self._consumer.task_consumer.cancel_by_queue(queue)
                self._shares[queue] = STOPPED
                self._kept.add(queue)

    def follow(self) -> None:
        """Stop, slow down or resume queues, as the shares say now."""
        if self._consumer.task_consumer is None:
            return  # there is no connection, and the next one begins with `connect`
        wanted = self._wanted()
        changed = [queue for queue in {*wanted, *self._shares} if wanted.get(queue) != self._shares.get(queue)]
        self._shares = wanted
        for queue in changed:
            self._hold(queue)
        if self._limit():
            self._consumer.reset_rate_limits()
        for queue in changed:
            if wanted.get(queue) != STOPPED and queue in self._kept:
                self._consume(queue)
        self._report()

    def cancelled(self, queue: str) -> None:
        """An operator wants this queue not to be consumed: resuming its handler changes nothing of that."""
        self._kept.discard(queue)

    def add(self, queue: str) -> bool:
        """An operator wants this queue to be consumed. True if its handler is paused, so that it must wait."""
        if self._shares.get(queue) != STOPPED:
            return False
        self._kept.add(queue)
        logger.warning("queue %s is consumed once its handler is resumed", queue)
        return True

    def _wanted(self) -> dict[str, float]:
        keeper = getattr(self._consumer.controller, "pauses", None)
        shares: Mapping[str, float] = keeper.shares if keeper is not None else {}
        runtime = self._consumer.app.runtime
        if not self._consumer.ignores_rates:
            return {runtime.queue_of(handler): share for handler, share in shares.items()}
        if slowed := [handler for handler, share in shares.items() if share != STOPPED]:
            logger.error("%s: worker_disable_rate_limits is set, so this worker stops it altogether", ", ".join(slowed))
        return {runtime.queue_of(handler): STOPPED for handler in shares}

    def _hold(self, queue: str) -> None:
        """Consume a queue no more, and give back what has not begun."""
        consumer = self._consumer.task_consumer
        if not consumer.consuming_from(queue):
            return
        with self._refusing(queue):
            consumer.cancel_by_queue(queue)
        self._kept.add(queue)
        back = take_back(self._consumer, queue)
        for request in back:
            request.message.reject_log_error(logger, self._consumer.connection_errors, requeue=UNCOUNTED)
        logger.info("queue %s is not consumed; %d deliveries that had not begun were given back", queue, len(back))

    @contextmanager
    def _refusing(self, queue: str) -> Iterator[None]:
        """Give deliveries from this queue back: those on their way arrive before RabbitMQ's answer to "cancel"."""
        consumer = self._consumer.task_consumer
        handle = consumer.on_message

        def refuse(message: Any) -> Any:
            if source_of(message) != queue:
                return handle(message)
            return message.reject_log_error(logger, self._consumer.connection_errors, requeue=UNCOUNTED)

        consumer.on_message = refuse
        try:
            yield
        finally:
            consumer.on_message = handle

    def _consume(self, queue: str) -> None:
        consumer, prefetch = self._consumer.task_consumer, self._prefetch(queue)
        self._kept.discard(queue)
        if prefetch:
            consumer.channel.basic_qos(0, prefetch, False)
        consumer.add_queue(self._consumer.app.amqp.queues[queue])
        consumer.consume()
        if prefetch:
            consumer.channel.basic_qos(0, self._consumer.initial_prefetch_count, False)
        logger.info("queue %s is consumed", queue)

    def _prefetch(self, queue: str) -> int:
        """The prefetch of a slowed queue on RabbitMQ, where each consumer has its own; 0: that of all queues."""
        share, usual = self._shares.get(queue), self._consumer.initial_prefetch_count
        has_its_own = self._consumer.qos_global is False and isinstance(
            self._consumer.task_consumer.channel, amqp.Channel
        )
        return min(usual, max(1, math.floor(share * HELD))) if share and usual and has_its_own else 0

    def _limit(self) -> bool:
        """Set the rate limits of slowed handlers, and their own again of others. True if any was changed."""
        app, before = self._consumer.app, {}
        slowed = {name: share for queue, share in self._shares.items() if share and (name := self._handler(queue))}
        for handler in {*slowed, *self._own_limits}:
            task = app.tasks[handler]
            before[handler] = task.rate_limit
            if handler in slowed:
                self._own_limits.setdefault(handler, task.rate_limit)
                task.rate_limit = slowed[handler]
            else:
                task.rate_limit = self._own_limits.pop(handler)
        return any(app.tasks[handler].rate_limit != limit for handler, limit in before.items())

    def _handler(self, queue: str) -> str:
        """The handler of a queue; "" if this worker's code does not have it."""
        handler = getattr(self._consumer.app.amqp.queues.get(queue), "handler", "")
        return handler if handler in self._consumer.app.tasks else ""

    def _report(self) -> None:
        presence = getattr(self._consumer.controller, "presence", None)
        if presence is not None:
            presence.wake()
