"""The Celery task around a handler."""

import json
import logging
import time
from contextlib import suppress
from typing import Any, ClassVar

from celery.exceptions import Reject

from choreo.broker.incoming import EventText
from choreo.broker.keys import Lease
from choreo.broker.queue import STORE_PAUSE
from choreo.envelope import Envelope
from choreo.errors import EnvelopeError, StoreError
from choreo.join import Join
from choreo.message import Message, parsed
from choreo.subscription import Subscription
from choreo.worker.delivery import Delivery
from choreo.worker.failure import is_stop
from choreo.worker.join import JoinDelivery
from choreo.worker.outage import outlast
from choreo.worker.task import SafeTask
from choreo.worker.trace import Failed, Trace, brief

logger = logging.getLogger(__name__)


class HandlerTask(SafeTask):
    """One subclass per handler is made when the service is finalized."""

    abstract = True
    Request = "choreo.worker.request:HandlerRequest"
    Strategy = "choreo.worker.strategy:strategy"
    subscription: ClassVar[Subscription]

    @property
    def __trace__(self) -> Trace | None:
        """Celery's tracer of this task, in short: see `choreo.worker.trace`."""
        return self._trace

    @__trace__.setter
    def __trace__(self, celerys: Trace | None) -> None:
        self._trace = celerys and brief(self, celerys)
        self.is_brief = self._trace is not celerys

    _trace: Trace | None = None
    #: Whether nobody misses what Celery does around a run.
    is_brief = False

    def run(self, event: str | dict[str, Any]) -> str:
        """Handle one delivery, the event as JSON. The answer is for people who read logs and Flower."""
        if isinstance(event, Failed):
            raise event.error
        envelope, delivery, parked = None, None, False
        try:
            try:
                envelope = read(event)
                delivery = getattr(event, "delivery", None) or self.delivery(envelope)
            except EnvelopeError as error:
                self._park(event, envelope, error)
                parked = True
                raise
            return delivery.live()
        except BaseException as error:
            if parked or (delivery is not None and delivery.settled) or is_stop(error):
                raise
            # Nothing is recorded yet, so whatever this is (the store is away, a time limit struck between two lines),
            # acknowledging would lose the event.
            what = delivery or self.name
            if isinstance(error, StoreError):
                logger.error("%s: %s; it is held until the store is back", what, error)
                with suppress(BaseException):
                    outlast(self.app.store)
            else:
                logger.exception("%s could not be settled; it stays in its queue", what)
                with suppress(BaseException):
                    time.sleep(STORE_PAUSE)
            raise Reject(error, requeue=True) from error

    def delivery(self, envelope: Envelope) -> Delivery:
        """The delivery in hand. Raises `EnvelopeError` when this handler can do nothing with such an event."""
        request = self.request
        lease, line = Lease.of(request.properties), getattr(request, "choreo_line", None)
        return self._delivery(envelope, request.retries + 1, lease, line)

    def first_delivery(self, envelope: Envelope, lease: Lease, line: Any) -> Delivery:
        """The delivery of an event that comes for the first time. Raises as `delivery` does."""
        return self._delivery(envelope, 1, lease, line)

    def _delivery(self, envelope: Envelope, attempt: int, lease: Lease | None, line: Any) -> Delivery:
        kind = JoinDelivery if isinstance(self.subscription, Join) else Delivery
        return kind(self.app, self.subscription, envelope, attempt, lease, line)

    def _park(self, event: str | dict[str, Any], envelope: Envelope | None, error: EnvelopeError) -> None:
        queue = self.app.topology.name_of(self.name)
        if envelope is not None:
            self.app.park(self.name, Message.carrying(envelope, exchange="", routing_key=queue), error, (envelope,))
            return
        body = json.dumps([[event], {}, {}], ensure_ascii=False).encode(errors="surrogatepass")
        self.app.park(self.name, Message("", queue, body, {"task": self.name}), error)


def read(event: str | dict[str, Any]) -> Envelope:
    """The event that a task message carries. Raises `EnvelopeError` when it is none."""
    if isinstance(event, EventText):
        return event.envelope
    try:
        return Envelope.from_wire(parsed(event) if isinstance(event, str) else event)
    except (ValueError, RecursionError) as error:
        if isinstance(error, EnvelopeError):
            raise
        raise EnvelopeError(f"the event cannot be read: {error}") from error
