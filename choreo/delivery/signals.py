"""Signals: messages that a service sends to one of its own joins or stories.

A signal goes to the queue of the join's handler, and to no other queue.
"""

from datetime import UTC, datetime

from choreo.events.envelope import Envelope
from choreo.events.message import Message

#: The deadline of the join has passed.
DEADLINE = "choreo.join_expired"
#: An operator fired the join: its handler runs with the parts that have arrived.
FIRED = "choreo.join_fired"
#: A story has been overdue for so long that it is not kept any longer.
ABANDONED = "choreo.story_abandoned"
SIGNALS = (DEADLINE, FIRED, ABANDONED)


def signal(kind: str, *, handler: str, key: str, source: str, queue: str, now: float) -> Message:
    """Return a signal of this kind to the join with this key. ``now`` is the time by the store's clock."""
    envelope = Envelope(
        id=f"{handler}/{key}/{kind}",
        type=kind,
        source=source,
        subject=key,
        time=datetime.fromtimestamp(now, UTC),
        correlation_id=f"{handler}/{key}",
    )
    return Message.carrying(envelope, exchange="", routing_key=queue)
