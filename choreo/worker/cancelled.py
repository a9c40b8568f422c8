"""
Consumers that RabbitMQ has cancelled on its own: they begin again, and the others go on.

RabbitMQ cancels the consumer of a queue that was deleted, and since 4.3 one whose delivery was not acked within
``consumer_timeout``. Celery then connects anew, after which RabbitMQ delivers everything again that this worker has
taken from all of its queues. Here only the queue in question is consumed anew.
"""

import logging
from typing import Any

from choreo.broker.rabbitmq.consuming import ConsumingChannel

logger = logging.getLogger(__name__)


def consume_again(consumer: Any) -> None:
    """
    Consume a queue again after RabbitMQ has cancelled its consumer, until the worker connects anew.

    ``consumer`` is Celery's, which has begun to consume.
    """
    channel = consumer.task_consumer.channel
    if isinstance(channel, ConsumingChannel):
        channel.on_cancelled = _Again(consumer).heard


class _Again:
    def __init__(self, consumer: Any) -> None:
        self._consumer, self._tasks = consumer, consumer.task_consumer

    def heard(self, queue: str, tag: str) -> None:
        if self._tasks._active_tags.get(queue) != tag:
            return  # the worker does not want it any more
        logger.warning(
            "RabbitMQ has cancelled the consumer of queue %s, which is consumed again. Most likely a delivery was not "
            "acked within consumer_timeout, or the queue was deleted: RabbitMQ's log says it.",
            queue,
        )
        del self._tasks._active_tags[queue]
        # Not from here: this is the middle of the reading of a frame.
        self._consumer.call_soon(self._consume, queue)

    def _consume(self, queue: str) -> None:
        tasks = self._tasks
        if tasks is self._consumer.task_consumer and queue in tasks._queues and not tasks.consuming_from(queue):
            tasks.add_queue(self._consumer.app.amqp.queues[queue])
            tasks.consume()
