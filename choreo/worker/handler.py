"""The Celery task around a handler."""

import json
import logging
import time
from typing import Any, ClassVar

from celery import Task
from celery.exceptions import Reject

from choreo.broker.incoming import EventText
from choreo.broker.keys import Lease
from choreo.broker.queue import STORE_PAUSE
from choreo.envelope import Envelope
from choreo.errors import EnvelopeError, StoreError
from choreo.join import Join
from choreo.message import Message
from choreo.subscription import Subscription
from choreo.worker.delivery import Delivery
from choreo.worker.join import JoinDelivery

logger = logging.getLogger(__name__)


class HandlerTask(Task):
    """One subclass per handler is made when the service is finalized."""

    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    ignore_result = True
    serializer = "json"
    Request = "choreo.worker.request:HandlerRequest"
    subscription: ClassVar[Subscription]

    def run(self, event: str | dict[str, Any]) -> str:
        """Handle one delivery, the event as JSON. The answer is for people who read logs and Flower."""
        envelope = _read(event)
        kind = JoinDelivery if isinstance(self.subscription, Join) else Delivery
        try:
            lease = Lease.of(self.request.properties)
            delivery = kind(self.app, self.subscription, envelope, self.request.retries + 1, lease)
        except EnvelopeError as error:
            message = Message.carrying(envelope, exchange="", routing_key=self.app.topology.name_of(self.name))
            self.app.park(self.name, message, error, (envelope,))
            raise
        try:
            return delivery.live()
        except StoreError as error:
            logger.error("%s: %s; it stays in its queue", delivery, error)
            time.sleep(STORE_PAUSE)
            raise Reject(error, requeue=True) from error


def _read(event: str | dict[str, Any]) -> Envelope:
    if isinstance(event, EventText):
        return event.envelope
    return Envelope.from_wire(json.loads(event) if isinstance(event, str) else event)
