"""A queue that knows whose it is.

The broker puts a copy of each event into the queue of every handler that listens. The message names no handler (the
publisher would have to know them); the queue does, so it writes its handler's name into the copy on the way to Celery.
It also gives the copy a task id of its own, since otherwise all services' runs of one event would be one row in
Flower, and addresses it to this queue, so that whatever Celery re-sends comes back here and nowhere else.

What is not a readable event never reaches Celery, which would drop it or die of it: it is parked as a dead letter.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from choreo.broker.incoming import Headers, Incoming, short
from choreo.broker.rabbitmq.steady_queue import SteadyQueue
from choreo.errors import EnvelopeError, UnansweredError
from choreo.events.envelope import Envelope
from choreo.events.ids import task_id
from choreo.events.message import Message, task_headers

logger = logging.getLogger(__name__)

#: Seconds to wait when the store does not answer.
STORE_PAUSE = 1.0
#: Keeps what cannot be read: handler, message, what is wrong with it.
Park = Callable[[str, Message, Exception], None]
#: Called with a queue before it is consumed. Returns its consumer arguments, or None.
OnConsume = Callable[["GuardedQueue"], Mapping[str, Any] | None]
#: The headers of a notice of a dead letter: see `choreo.delivery.notice`.
_NOTICE = frozenset("lang task id root_id parent_id argsrepr kwargsrepr origin".split())


class GuardedQueue(SteadyQueue):
    """
    A queue that looks at each delivery before Celery does. ``handler`` is the one whose deliveries they are.

    ``on_consume`` is called with the queue before it is consumed; it returns consumer arguments.
    """

    attrs = (*SteadyQueue.attrs, ("handler", None), ("park", None), ("on_consume", None))
    handler: str
    park: Park
    on_consume: OnConsume | None

    def consume(
        self,
        consumer_tag: str = "",
        callback: Any = None,
        no_ack: bool | None = None,
        nowait: bool = False,
        on_cancel: Any = None,
    ) -> str:
        def on_delivery(message: Any) -> Any:
            try:
                self.prepare(message)
            except EnvelopeError as error:
                return self._set_aside(message, error)
            return callback(message)

        self.consumer_arguments = self.on_consume(self) if self.on_consume else None
        return str(super().consume(consumer_tag, on_delivery, no_ack, nowait, on_cancel))

    def prepare(self, message: Any) -> None:
        """Make the delivery one that Celery can run. Raises `EnvelopeError`, and nothing else, when it cannot be."""
        try:
            self.read(message)
        except EnvelopeError:
            raise
        except Exception as error:  # one delivery that nobody thought of must not end every worker of the service
            raise EnvelopeError(f"it cannot be read: {short(error)}") from error

    def read(self, message: Any) -> None:
        """What `prepare` does. It may raise anything."""
        raise NotImplementedError

    def origin(self, message: Any) -> tuple[str, str]:  # noqa: ARG002 - the dead-letter queue asks the message
        """The handler that a delivery which is set aside was meant for, and that handler's queue."""
        return self.handler, self.name

    def as_dict(self, recurse: bool = False) -> dict[str, Any]:
        """The declaration. ``recurse`` is what `celery inspect active_queues` asks for: plain values, for people."""
        facts: dict[str, Any] = super().as_dict(recurse=False)
        if recurse:
            exchange, patterns = self.source()
            facts["exchange"], facts["routing_key"] = exchange, ", ".join(patterns)
            facts["bindings"] = [{"exchange": exchange["name"], "routing_key": pattern} for pattern in patterns]
            facts["consumer_arguments"] = None
            return {name: fact for name, fact in facts.items() if not callable(fact)}
        return facts

    def source(self) -> tuple[dict[str, Any], list[str]]:
        """
        Where the queue gets its messages from: the exchange as plain values, and the patterns.

        Celery gives every queue an exchange to reach that one queue by, which is not where its events come from.
        Were `Queue.exchange` the one of the events, ``send_task(queue=...)`` would broadcast.
        """
        if not self.bindings:
            return {"name": "", "type": "direct"}, [self.name]
        exchange = next(iter(self.bindings)).exchange
        plain: dict[str, Any] = exchange.as_dict(recurse=True)
        return plain, sorted(binding.routing_key for binding in self.bindings)

    def _set_aside(self, message: Any, error: EnvelopeError) -> None:
        logger.error("%s sets a delivery aside as a dead letter: %s", self.name, error)
        handler, queue = self.origin(message)
        try:
            self.park(handler, Incoming(message).raw(queue), error)
        except Exception as trouble:  # above all a `StoreError`; none is worth the worker
            # It may be the only copy: keep it in the queue until the store is back, and do not ask all the time.
            logger.error("%s could not keep a dead letter, it stays in the queue: %s", self.name, trouble)
            time.sleep(STORE_PAUSE)
            message.channel.basic_reject(message.delivery_tag, requeue=True)
        else:
            message.channel.basic_ack(message.delivery_tag)


class HandlerQueue(GuardedQueue):
    """A durable queue whose deliveries are runs of ``handler``."""

    def declare(self, nowait: bool = False, channel: Any = None) -> str:
        """Declare the queue and its bindings. Celery gives every queue an exchange; this one has only bindings."""
        self.queue_declare(nowait=nowait, channel=channel)
        self._create_bindings(nowait=nowait, channel=channel)
        return str(self.name)

    def read(self, message: Any) -> None:
        incoming = Incoming(message)
        # A virtual transport that gives a delivery back to its queue may do so as what it has become below.
        known = getattr(message, "choreo_event", None)
        event, retries = (known, 0) if known else incoming.event(self.handler)
        address = {"exchange": "", "routing_key": self.name}
        # As an object the event would go through Celery's decoder, which makes dates of what looks like its own types.
        incoming.become(run_headers(self.handler, event.envelope, retries), event, address)


class DeadLetterQueue(HandlerQueue):
    """
    Where a service is told of its dead letters.

    RabbitMQ also puts here what it delivered too often without an answer. ``prefix`` is the namespace's.
    """

    attrs = (*HandlerQueue.attrs, ("prefix", None))
    prefix: str

    def read(self, message: Any) -> None:
        incoming = Incoming(message)
        if incoming.headers.get("task") != self.handler:
            event, _ = incoming.event()
            raise UnansweredError("the broker delivered it too often without an answer", event.envelope)
        # Only choreo writes here; whatever else Celery might read in the headers is none of ours, and is left out.
        headers = incoming.headers
        limits = headers.get("eta"), headers.get("expires"), *(headers.get("timelimit") or ())
        strange = not isinstance(headers.get("id"), str) or any(limits)
        match incoming.body():
            case [[str() as letter], dict(kwargs), dict(embed)] if not (strange or kwargs or any(embed.values())):
                told: Headers = {name: text for name, text in headers.items() if name in _NOTICE and type(text) is str}
                told |= {"retries": 0, "ignore_result": True}
                incoming.become(told, letter, {"exchange": "", "routing_key": self.name})
                return
        raise EnvelopeError("it is not a notice of a dead letter")

    def origin(self, message: Any) -> tuple[str, str]:
        queue = self.name
        with suppress(EnvelopeError):
            named = Incoming(message).headers.get("x-first-death-queue")
            # Half a surrogate pair is no name that the store could keep a letter under.
            queue = named if isinstance(named, str) and named and named.isprintable() else queue
        return queue.removeprefix(self.prefix or ""), queue


def run_headers(handler: str, envelope: Envelope, retries: int) -> Headers:
    """The headers under which Celery runs ``handler`` on this event."""
    return task_headers(
        handler,
        task_id(envelope.id, handler),
        root_id=envelope.correlation_id,
        parent_id=envelope.id,
        argsrepr=str(envelope),
        origin=envelope.source,
        retries=retries,
    )
