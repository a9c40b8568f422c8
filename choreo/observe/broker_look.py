"""What the broker tells of the messages about a subject."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from kombu import Connection

from choreo.broker.depths import Depth, Depths
from choreo.broker.queued import Queued, find_messages
from choreo.store.search import needles


@dataclass(frozen=True)
class BrokerLook:
    """What was seen on the broker."""

    messages: Sequence[Queued] = ()
    #: True if the queues could be looked into.
    is_open: bool = False
    #: Queue → what waits in it, if they could not be looked into.
    depths: Mapping[str, Depth] = field(default_factory=dict)
    #: What was not looked through, in words.
    notes: Sequence[str] = ()


def look_at_broker(connect: Callable[[], Connection], queues: Sequence[str], texts: Sequence[str]) -> BrokerLook:
    """
    Look for messages with one of these texts in these queues. Consumes nothing.

    ``connect`` is a callback: it returns a connection. A broker that does not answer is a note.
    """
    try:
        found = find_messages(connect, queues, needles(texts))
        look = BrokerLook(found.messages, found.is_open, notes=found.notes)
        return look if found.is_open else replace(look, **_counted(connect, queues))
    except Exception as error:  # the brokers' clients raise dozens of types
        return BrokerLook(notes=[f"the broker does not answer, so its queues were not looked at: {error}"])


def _counted(connect: Callable[[], Connection], queues: Sequence[str]) -> dict[str, Any]:
    with closing(Depths(connect)) as depths:
        seen = depths.look(queues)
    note = "this broker does not let its queues be looked into: only the number of their messages is known"
    return {"depths": seen, "notes": [note]}
