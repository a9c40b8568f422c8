"""Room for tasks with a countdown or an ETA on RabbitMQ.

A worker keeps a task with a countdown, unacknowledged, until it is due. Celery raises the prefetch by one for each. But
where a service has quorum queues, RabbitMQ counts the prefetch of each queue by itself, and a consumer keeps the
prefetch that it began with. So a few countdowns would hold up all tasks of their queue.

The remedy: a new consumer. RabbitMQ counts only the deliveries to that one; the earlier ones stay with the worker.
"""

import logging
from collections import Counter
from typing import Any

import amqp
from celery.worker import state

from choreo.broker.workload import listed

logger = logging.getLogger(__name__)


class CountdownRoom:
    """
    Consumes a queue anew before its countdowns use up its prefetch.

    ``consumer`` is kombu's, for all queues of the worker. ``prefetch`` is the prefetch of each queue.
    """

    def __init__(self, consumer: Any, prefetch: int) -> None:
        self._consumer, self._prefetch = consumer, prefetch

    @classmethod
    def make(cls, consumer: Any) -> None:
        """Make room in this worker, until it connects anew. ``consumer`` is Celery's, which has begun to consume."""
        is_fixed = consumer.qos_global is False and isinstance(consumer.task_consumer.channel, amqp.Channel)
        if is_fixed and consumer.initial_prefetch_count:
            # Celery calls it between two events of its loop, when a countdown was received or has ended.
            consumer.qos.callback = cls(consumer.task_consumer, consumer.initial_prefetch_count).look

    def look(self, prefetch_count: int = 0) -> None:  # noqa: ARG002 - kombu's signature
        """Begin a new consumer for each queue whose current one has spent half of its prefetch on countdowns."""
        held = Counter(
            request.message.delivery_info.get("consumer_tag") for request in listed(state.scheduled_requests)
        )
        tags: dict[str, str] = self._consumer._active_tags
        spent = [queue for queue, tag in tags.items() if held[tag] and 2 * held[tag] >= self._prefetch]
        for queue in spent:
            logger.debug("%s is consumed anew: it holds %d countdowns", queue, held[tags[queue]])
            self._consumer.channel.basic_cancel(tags.pop(queue))
        if spent:
            self._consumer.consume()
