"""The queues of a service's handlers that one of its workers does not consume: they must exist even so.

A worker that is started with ``-Q`` or ``-X`` consumes only some of the queues. The service listens with all of its
handlers as soon as any of its workers runs. Without their queues, the events for the others would be lost until
another worker starts.
"""

import logging
from typing import Any

from choreo.broker.queue import HandlerQueue
from choreo.errors import DeclarationError

logger = logging.getLogger(__name__)


def declare_unconsumed(app: Any, connection: Any) -> None:
    """
    Declare and bind the queues of handlers, and of notices, that this worker does not consume, as a consumer would.

    If the broker refuses one, that is logged, and the worker goes on. Raises the broker's errors if it is away.
    """
    consumed = app.amqp.queues.consume_from
    for name, queue in app.amqp.queues.items():
        if name in consumed or not isinstance(queue, HandlerQueue):
            continue
        try:
            # A channel of its own: RabbitMQ closes a channel when it refuses a request.
            with connection.channel() as channel:
                queue(channel).declare()
        except (DeclarationError, *connection.channel_errors) as error:
            logger.error("queue %s, which this worker does not consume, may miss events: %s", name, error)
