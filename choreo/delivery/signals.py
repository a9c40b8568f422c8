"""Signals: messages that a service sends to its own joins.

DEADLINE: the join's time is up. FIRED: the join was fired by hand (see `Joins.fire`). A signal goes to the queue of the
join's handler only.
"""

from datetime import UTC, datetime

from choreo.events.envelope import Envelope
from choreo.events.message import Message

DEADLINE = "choreo.join_expired"
FIRED = "choreo.join_fired"
SIGNALS = (DEADLINE, FIRED)


def signal(kind: str, *, handler: str, key: str, source: str, queue: str) -> Message:
    """A signal to the join with this key. ``kind`` is DEADLINE or FIRED; ``queue`` is the handler's queue."""
    envelope = Envelope(
        id=f"{handler}/{key}/{kind}",
        type=kind,
        source=source,
        subject=key,
        time=datetime.now(UTC),
        correlation_id=f"{handler}/{key}",
    )
    return Message.carrying(envelope, exchange="", routing_key=queue)
