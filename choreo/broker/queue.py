"""Queues that check each delivery, and turn an event into a run of their handler, before Celery sees it.

The broker puts a copy of each event into the queue of every handler that listens. The message names no handler, since
the publisher does not know them. The queue knows its handler, and writes into the copy:

- the handler's name, as the task that Celery shall run;
- a task id of its own: with the sender's id all services' runs of one event would be one row in Flower;
- the queue as the address, so that a message that Celery sends again comes back to this queue only.

A delivery that holds no readable event never reaches Celery, which would drop it or end the worker. It is kept as a
dead letter.
"""

import logging
import time
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from typing import Any

from choreo.broker.incoming import UNCOUNTED, Headers, Incoming, retries_in, returns_of, short, shortened
from choreo.broker.rabbitmq.steady_queue import SteadyQueue
from choreo.errors import EnvelopeError, UnansweredError
from choreo.events.envelope import Envelope
from choreo.events.ids import task_id
from choreo.events.lineage import NO_LINEAGE, Lineage, lineage_of
from choreo.events.message import Message, task_headers
from choreo.events.patterns import matches

logger = logging.getLogger(__name__)

#: Seconds to wait before a delivery returns to its queue, when the store could not keep it as a dead letter.
STORE_PAUSE = 1.0
#: Callback: keeps a delivery that cannot be read as a dead letter. Gets the handler, the message and the error.
Park = Callable[[str, Message, Exception], None]
#: Callback: called with a queue before it is consumed. Returns its consumer arguments, or None.
OnConsume = Callable[["GuardedQueue"], Mapping[str, Any] | None]
#: The headers of a notice of a dead letter: see `choreo.delivery.notice`.
_NOTICE = frozenset("lang task id root_id parent_id argsrepr kwargsrepr origin".split())


class GuardedQueue(SteadyQueue):
    """
    A queue that checks each delivery before Celery sees it.

    ``handler`` is the name of the handler whose deliveries they are. ``park`` and ``on_consume`` are callbacks: see
    `Park` and `OnConsume`.
    """

    attrs = (*SteadyQueue.attrs, ("handler", None), ("park", None), ("on_consume", None))
    handler: str
    park: Park
    on_consume: OnConsume | None
    #: A delivery that came back more often is set aside. It ends whatever reads it, in a way that nothing else counts.
    most_returns = 20

    def consume(
        self,
        consumer_tag: str = "",
        callback: Any = None,
        no_ack: bool | None = None,
        nowait: bool = False,
        on_cancel: Any = None,
    ) -> str:
        """Consume as kombu does, but prepare each delivery, or set it aside, before ``callback`` gets it."""

        def on_delivery(message: Any) -> Any:
            try:
                self.prepare(message)
            except EnvelopeError as error:
                return self.set_aside(message, error)
            return callback(message)

        self.consumer_arguments = self.on_consume(self) if self.on_consume else None
        return str(super().consume(consumer_tag, on_delivery, no_ack, nowait, on_cancel))

    def prepare(self, message: Any) -> None:
        """Make the delivery one that Celery can run. Raises `EnvelopeError`, and nothing else, when that fails."""
        try:
            if returns_of(message) > self.most_returns:
                raise UnansweredError(
                    f"it came back {returns_of(message)} times, and was never settled", self.event_in(message)
                )
            self.make_runnable(message)
        except EnvelopeError:
            raise
        except Exception as error:  # an unforeseen delivery must not end every worker of the service
            raise EnvelopeError(f"it cannot be read: {short(error)}") from error

    def make_runnable(self, message: Any) -> None:
        """The work of `prepare`, for a subclass to implement. It may raise anything."""
        raise NotImplementedError

    def event_in(self, message: Any) -> Envelope | None:  # noqa: ARG002 - only some queues hold events
        """The event in a delivery that is set aside because it came back too often; None if it holds none."""
        return None

    def origin(self, message: Any) -> tuple[str, str]:  # noqa: ARG002 - a dead-letter queue reads it
        """The handler for which a delivery was meant, and that handler's queue. Used when it is set aside."""
        return self.handler, self.name

    def as_dict(self, recurse: bool = False) -> dict[str, Any]:
        """The declaration. With ``recurse``, as for `celery inspect active_queues`: plain values, with the bindings."""
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
        The source of the queue's messages: the exchange as plain values, and the patterns of its bindings.

        It is not `Queue.exchange`, which Celery uses to address this one queue. If that were the exchange of the
        events, ``send_task(queue=...)`` would broadcast.
        """
        if not self.bindings:
            return {"name": "", "type": "direct"}, [self.name]
        exchange = next(iter(self.bindings)).exchange
        plain: dict[str, Any] = exchange.as_dict(recurse=True)
        return plain, sorted(binding.routing_key for binding in self.bindings)

    def keep(self, message: Any, error: EnvelopeError) -> bool:
        """Keep a delivery as a dead letter. False, after a pause, if that failed: most likely the store is away."""
        logger.warning("%s sets a delivery aside as a dead letter: %s", self.name, short(error))
        try:
            handler, queue = self.origin(message)
            self.park(handler, Incoming(message).raw(queue), error)
        except Exception as trouble:  # most likely a `StoreError`; none of them may end the worker
            logger.error("%s could not keep a dead letter, it stays in the queue: %s", self.name, short(trouble))
            time.sleep(STORE_PAUSE)  # spares the store
            return False
        return True

    def set_aside(self, message: Any, error: EnvelopeError) -> None:
        """Keep a delivery that `prepare` refused as a dead letter, and ack it; or give it back."""
        if self.keep(message, error):
            message.channel.basic_ack(message.delivery_tag)
        else:  # this may be the only copy, so it stays in the queue until the store keeps it
            message.channel.basic_reject(message.delivery_tag, requeue=UNCOUNTED)


class HandlerQueue(GuardedQueue):
    """
    A durable queue whose deliveries become runs of ``handler``.

    ``foreign`` are the types of other programs → the types under which the handler hears them.
    """

    attrs = (*GuardedQueue.attrs, ("foreign", None))
    foreign: Mapping[str, str]
    # `Terms.max_deliveries` counts the beginnings of a run. That is more exact, since a worker that dies returns all
    # deliveries that it had prefetched. This limit is for what never begins.
    most_returns = 100

    def declare(self, nowait: bool = False, channel: Any = None) -> str:
        """Declare the queue and its bindings, but not `Queue.exchange`: Celery sets it, and no event comes from it."""
        self.queue_declare(nowait=nowait, channel=channel)
        self._create_bindings(nowait=nowait, channel=channel)
        return str(self.name)

    def event_in(self, message: Any) -> Envelope | None:
        """The event in a delivery that is set aside because it came back too often; None if it holds none."""
        with suppress(EnvelopeError):
            return Incoming(message).event(self.handler, known_as=self.known_as)[0].envelope
        return None

    def known_as(self, event: Envelope) -> Envelope:
        """
        A plain CloudEvent of another program, under the type that the handler hears.

        Raises `EnvelopeError` if the handler hears no such type: the program has chosen the routing key, which brought
        the event here.
        """
        heard = self._renamed(event)
        patterns = self.source()[1]
        if not any(matches(pattern, heard.type) for pattern in patterns):
            raise EnvelopeError(
                f"its type is {shortened(event.type)}, and {self.handler} hears {', '.join(patterns)}. If that is the "
                f"same event, name its type in the class: class ...(Event, foreign={shortened(event.type)})."
            )
        return heard

    def _renamed(self, event: Envelope) -> Envelope:
        own = (self.foreign or {}).get(event.type)
        return event.heard_as(own) if own else event

    def make_runnable(self, message: Any) -> None:
        """Turn the event in the delivery into a run of the handler."""
        incoming = Incoming(message)
        # A virtual transport may return a delivery to its queue in the form that `become` gave it. So the handler's own
        # name is allowed as the task.
        known = getattr(message, "choreo_event", None)
        event, retries = (known, 0) if known else incoming.event(self.handler, known_as=self.known_as)
        address = {"exchange": "", "routing_key": self.name}
        # The event is passed as a text. An object would go through Celery's decoder, which turns values that look like
        # its own types into dates.
        lineage = lineage_of(incoming.headers)
        incoming.become(run_headers(self.handler, event.envelope, retries, lineage), event, address)


class DeadLetterQueue(HandlerQueue):
    """
    The queue of a service's notices, one for each of its dead letters.

    RabbitMQ also puts deliveries here that exceeded the delivery limit of their queue: they become dead letters.
    ``prefix`` is the namespace with a dot, as in the names of queues, or "". ``handlers`` returns the names of all
    handlers that may have dead letters.
    """

    attrs = (*HandlerQueue.attrs, ("prefix", None), ("handlers", None))
    prefix: str
    handlers: Callable[[], Container[str]]
    most_returns = GuardedQueue.most_returns

    def make_runnable(self, message: Any) -> None:
        """Check a notice. Raises `UnansweredError` for an event that RabbitMQ delivered too often."""
        incoming = Incoming(message)
        if incoming.headers.get("task") != self.handler:
            event, _ = incoming.event(known_as=self._renamed)
            raise UnansweredError("the broker delivered it too often without an answer", event.envelope)
        # Only choreo writes notices. Celery reads more headers than they have, so all others are left out.
        headers = incoming.headers
        limits = headers.get("eta"), headers.get("expires"), *(headers.get("timelimit") or ())
        strange = not isinstance(headers.get("id"), str) or any(limits)
        match incoming.body():
            case [[str() as letter], dict(kwargs), dict(embed)] if not (strange or kwargs or any(embed.values())):
                plain: Headers = {name: text for name, text in headers.items() if name in _NOTICE and type(text) is str}
                plain |= {"retries": retries_in(headers), "ignore_result": True}
                incoming.become(plain, letter, {"exchange": "", "routing_key": self.name})
                return
        raise EnvelopeError("it is not a notice of a dead letter")

    def keep(self, message: Any, error: EnvelopeError) -> bool:
        """
        Keep a delivery as a dead letter, but not a notice that came back too often: its own dead letter is kept.

        RabbitMQ also counts the returns of a good notice, after each restart of a worker and while the store is away.
        """
        if isinstance(error, UnansweredError) and self._is_notice(message):
            logger.error(
                "%s drops a notice: %s. Its dead letter is kept: see `choreo dead-letters list`",
                self.name,
                short(error),
            )
            return True
        return super().keep(message, error)

    def _is_notice(self, message: Any) -> bool:
        with suppress(EnvelopeError):
            return Incoming(message).headers.get("task") == self.handler
        return False

    def origin(self, message: Any) -> tuple[str, str]:
        """
        The handler and the queue from which RabbitMQ moved the delivery here; else this queue and its handler.

        Any program can name any queue there. Nobody would look for the dead letters of one that is no handler's.
        """
        with suppress(EnvelopeError):
            queue = Incoming(message).headers.get("x-first-death-queue")
            if isinstance(queue, str) and queue.startswith(self.prefix or ""):
                handler = queue.removeprefix(self.prefix or "")
                if handler in self.handlers():
                    return handler, queue
        return self.handler, self.name


def run_headers(handler: str, envelope: Envelope, retries: int, lineage: Lineage = NO_LINEAGE) -> Headers:
    """The headers with which Celery runs ``handler`` on this event."""
    unit = task_id(envelope.occasion, handler)
    return task_headers(
        handler,
        unit,
        root_id=lineage.root_id or unit,
        parent_id=lineage.parent_id,
        argsrepr=str(envelope),
        origin=envelope.source,
        retries=retries,
    )
