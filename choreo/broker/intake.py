"""
The intake: one queue to which programs in any language send CloudEvents, for a broker that cannot route them itself.

On Redis it is a plain list: ``LPUSH choreo.intake '{"specversion": "1.0", ...}'``. On RabbitMQ it is a queue, though
programs there can as well publish to the exchange of the events. A worker takes each event over: it broadcasts the
event to the handlers that listen, and acks it once the broker holds all copies. So an event is never lost in between;
if the worker dies there, the event is broadcast twice, and each handler handles it once, by its source and id.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from choreo.broker.cloud_message import cloud_event_in, structured
from choreo.broker.incoming import UNCOUNTED, EventText, Incoming, short
from choreo.broker.queue import STORE_PAUSE, GuardedQueue
from choreo.errors import EnvelopeError, EventTooLargeError, PublishError
from choreo.events.cloud_events import STRUCTURED
from choreo.events.envelope import Envelope
from choreo.events.message import MOST_NESTED, is_too_deep

logger = logging.getLogger(__name__)


class IntakeQueue(GuardedQueue):
    """The intake. ``forward`` is a callback: it broadcasts an event of another program, and raises `PublishError`."""

    attrs = (*GuardedQueue.attrs, ("forward", None), ("raw_type", None))
    forward: Callable[[Envelope], object]
    #: The content type that the broker gives to a text that is no message: on Redis, what another program has pushed.
    raw_type: str
    most_returns = 100

    def consume(
        self,
        consumer_tag: str = "",
        callback: Any = None,  # noqa: ARG002 - no Celery task runs for an event of the intake
        no_ack: bool | None = None,
        nowait: bool = False,
        on_cancel: Any = None,
    ) -> str:
        """Consume as kombu does, and take over each event. ``callback`` gets none."""
        return super().consume(consumer_tag, self._take_over, no_ack, nowait, on_cancel)

    def make_runnable(self, message: Any) -> None:
        """Read the event in the delivery."""
        incoming = Incoming(message)
        content_type, body = incoming.content_type, incoming.plain()
        if content_type == self.raw_type:
            wire: Any = structured(STRUCTURED, body)
        else:
            wire = cloud_event_in(content_type, incoming.headers, body)
        if wire is None:
            raise EnvelopeError(f"the intake takes CloudEvents: in structured mode ({STRUCTURED!r}), or in binary mode")
        if is_too_deep(wire):
            raise EnvelopeError(f"its data is nested more than {MOST_NESTED} times")
        message.choreo_event = EventText.of(Envelope.from_wire(wire)).envelope  # it can be written again

    def _take_over(self, message: Any) -> None:
        try:
            self.forward(message.choreo_event)
        except PublishError as error:
            if isinstance(error, EventTooLargeError) or not error.is_outage:
                return self.set_aside(message, EnvelopeError(f"it cannot be broadcast: {short(error)}"))
            logger.error("%s could not broadcast an event, it stays in the queue: %s", self.name, short(error))
            time.sleep(STORE_PAUSE)
            message.channel.basic_reject(message.delivery_tag, requeue=UNCOUNTED)
        except Exception as error:  # an unforeseen event must not end every worker of the service
            self.set_aside(message, EnvelopeError(f"it cannot be broadcast: {short(error)}"))
        else:
            message.channel.basic_ack(message.delivery_tag)
        return None
