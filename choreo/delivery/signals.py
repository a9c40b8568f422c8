"""What a join is told by its own service: that its time is up, or that somebody wants it fired as it is.

They travel to the handler's own queue and to nobody else.
"""

from datetime import UTC, datetime

from choreo.events.envelope import Envelope
from choreo.events.message import Message

DEADLINE = "choreo.join_expired"
FIRED = "choreo.join_fired"
SIGNALS = (DEADLINE, FIRED)


def signal(kind: str, *, handler: str, key: str, source: str, queue: str) -> Message:
    """A signal to the join with this key."""
    envelope = Envelope(
        id=f"{handler}/{key}/{kind}",
        type=kind,
        source=source,
        subject=key,
        time=datetime.now(UTC),
        correlation_id=f"{handler}/{key}",
    )
    return Message.carrying(envelope, exchange="", routing_key=queue)
