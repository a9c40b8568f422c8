"""Beginning parts of joins several at a time.

Every part has to be asked about, and most of a question's time is its way to the store and back. So the parts that a
worker was given together are asked about together, before the first of them is begun.

Only neighbours are: what cancels a join must not be overtaken by a part that came after it. And only what is delivered
for the first time: what once brought its worker down with it is begun alone.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from choreo.broker.keys import Lease
from choreo.errors import EnvelopeError
from choreo.join import Join
from choreo.worker.join import JoinDelivery

if TYPE_CHECKING:
    from choreo.service import Service


def begin_ahead(app: "Service", join: Join, messages: Sequence[Any]) -> int:
    """Begin what can be begun of these messages, as its queue has prepared them. Returns how many of the first ones."""
    line, count = messages[0].channel.line if messages else None, 0
    if line is None:
        return 0
    # What cannot be read fails in its turn.
    with suppress(EnvelopeError):
        for message in messages:
            (event,), *_ = message.payload
            attempt, lease = message.headers["retries"] + 1, Lease.of(message.properties)
            delivery = JoinDelivery(app, join, event.envelope, attempt, lease, line)
            if not delivery.begin_ahead():
                break
            event.delivery = delivery
            count += 1
    if count:
        line.flush(wait=False)
    return count
