"""
The prefetch of handlers' queues on RabbitMQ: the quicker the handler, the larger.

Claims, commits and acks of several events together need several events. But what waits in one worker cannot be handled
by another one. So a queue is consumed with the prefetch of ``worker_prefetch_multiplier`` first. If its handler is
quick, and its events wait for each other, it is consumed anew with a prefetch of `HELD` seconds of its work; and with
the first one again once its events wait longer. To consume anew takes RabbitMQ some milliseconds, in which no handler
of a solo worker runs: so a queue whose events come one by one is left alone, unless they come so quickly that they can
linger (`choreo.broker.rabbitmq.linger`), which needs a larger prefetch.

RabbitMQ fixes the prefetch of a consumer when it begins, where a service has quorum queues.
"""

import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any

from celery.worker import state

from choreo.broker.incoming import UNCOUNTED, source_of
from choreo.broker.rabbitmq.consuming import ConsumingChannel
from choreo.broker.rabbitmq.linger import ROOM, WINDOW
from choreo.broker.workload import listed
from choreo.declare.settings import USUAL_PREFETCH
from choreo.worker.unbegun import take_back

logger = logging.getLogger(__name__)

#: Seconds of work that a worker holds of one queue, if its handler is quick.
HELD = 0.25
#: Seconds of work above which it gives back what it holds beyond the usual prefetch.
TOO_MUCH = 2.0
#: The largest prefetch that is chosen. More brings nothing: see docs/deployment.md.
MOST = 256
#: Seconds between two looks.
LOOK_SECONDS = 0.5


class Prefetch:
    """
    Follows the pace of the handlers in one worker of the pools solo and threads, until it connects anew.

    ``consumer`` is Celery's. Its methods are called in the worker's main thread.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer, self._tasks = consumer, consumer.task_consumer
        self._channel: ConsumingChannel = consumer.task_consumer.channel
        self._usual: int = consumer.initial_prefetch_count
        #: Queue → the tag of its consumer, and its prefetch: for each consumer that this object has begun.
        self._sizes: dict[str, tuple[str, int]] = {}
        #: Queue → its counters in the channel, at the last look.
        self._counts: Mapping[str, tuple[int, int]] = {}
        self._looked = monotonic()
        self._entry: Any = None

    @classmethod
    def make(cls, consumer: Any) -> None:
        """Begin to follow, if the fast lane takes messages of RabbitMQ and nobody has chosen a prefetch."""
        lane, channel = consumer.app.runtime.lane, consumer.task_consumer.channel
        is_chosen = consumer.app.conf.worker_prefetch_multiplier != USUAL_PREFETCH
        if (
            isinstance(channel, ConsumingChannel)
            and channel.has_event_loop
            and lane is not None
            and lane.in_process
            and consumer.qos_global is False
            and consumer.initial_prefetch_count
            and not is_chosen
        ):
            follower = cls(consumer)
            follower._entry = consumer.hub.call_repeatedly(LOOK_SECONDS, follower.look)

    def look(self) -> None:
        """Consume each queue anew whose handler has become much quicker, or slow."""
        if self._consumer.task_consumer is not self._tasks or self._channel.connection is None:
            self._entry.cancel()
            return
        now = monotonic()
        seconds, self._looked = max(now - self._looked, 0.001), now
        delivered, followed = self._channel.delivered, self._channel.followed
        before, self._counts = self._counts, {queue: (count, followed[queue]) for queue, count in delivered.items()}
        for queue in list(self._tasks._active_tags):
            if queue in self._channel.served and not self._consumer.paused.holds(queue):
                counts, old = self._counts.get(queue, (0, 0)), before.get(queue, (0, 0))
                self._fit(queue, (counts[0] - old[0]) / seconds, (counts[1] - old[1]) / seconds)

    def _fit(self, queue: str, rate: float, followed: float) -> None:
        """``rate``: how many of its deliveries began in a second; ``followed``: those with others behind them."""
        tag, size = self._sizes.get(queue, ("", self._usual))
        if tag != self._tasks._active_tags.get(queue):  # not begun here: a pause has ended, say
            size = self._usual
        lingers = rate * WINDOW >= 1
        wanted = min(max(int(rate * HELD), ROOM if lingers else 0), MOST)
        if wanted >= 2 * size:
            if lingers or 2 * followed > rate or self._held(queue):
                self._consume(queue, wanted, keep=True)
        elif size > self._usual and rate * TOO_MUCH < self._held(queue):
            for request in take_back(self._consumer, queue):
                errors = self._consumer.connection_errors
                request.message.reject_log_error(logger, errors, requeue=UNCOUNTED)
            self._consume(queue, self._usual, keep=False)

    def _held(self, queue: str) -> int:
        """How many deliveries of a queue have not begun."""
        waiting = [one for one in listed(state.reserved_requests) if one not in state.active_requests]
        arrived = sum(taken.queue == queue for taken in self._channel.arrived)
        return arrived + sum(source_of(request.message) == queue for request in waiting)

    def _consume(self, queue: str, size: int, *, keep: bool) -> None:
        channel, tags = self._channel, self._tasks._active_tags
        logger.info("queue %s is consumed anew, with a prefetch of %d", queue, size)
        old = tags.pop(queue)
        arrived = channel.end_consumer(old, keep=keep)
        channel.basic_qos(0, size, False)
        try:
            self._tasks.consume()
        finally:
            channel.basic_qos(0, self._usual, False)
        channel.go_on_with(arrived, tags[queue])
        self._sizes[queue] = tags[queue], size
