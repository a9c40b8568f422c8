"""Beginning parts of joins several at a time.

Every part has to be asked about, and most of a question's time is its way to the store and back. So the parts that a
worker was given together are asked about together, before the first of them is begun.

What cancels a join must not be overtaken by a part that came after it: nothing is asked about what stands behind it in
the queue until it is settled, which with threads may be long after it was delivered. And what once brought its worker
down with it is begun alone.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery.worker import state

from choreo.broker import workload
from choreo.broker.queue import task_id
from choreo.broker.taken import Taken
from choreo.errors import EnvelopeError
from choreo.join import Join
from choreo.worker.join import JoinDelivery

if TYPE_CHECKING:
    from choreo.service import Service


class Ahead:
    """Begins the parts of one join."""

    def __init__(self, app: "Service", join: Join) -> None:
        self._app, self._join = app, join
        #: The tags of what was no part.
        self._others: list[str] = []

    def __call__(self, channel: Any, together: Sequence[Taken]) -> int:
        """Begin what can be begun of what this channel has taken. Returns how many of the first ones."""
        line, count = channel.line, 0
        if line is None or (self._others and workload.has(self._others)):
            return 0
        self._others = []
        # What cannot be read fails in its turn.
        with suppress(EnvelopeError):
            while count < len(together) and self._begin(channel, together[count], line):
                count += 1
        if count:
            line.flush(wait=False)
        return count

    def _begin(self, channel: Any, taken: Taken, line: Any) -> bool:
        event = taken.event
        if event is None:
            # Nobody has looked closer yet, so it may be what cancels a join.
            self._others.append(taken.tag)
            return False
        delivery = JoinDelivery(self._app, self._join, event.envelope, 1, channel.lease_of(taken), line)
        if not delivery.is_part:
            self._others.append(taken.tag)
        # Mostly nothing is, and an id need not be made to find that out.
        is_revoked = bool(state.revoked) and task_id(event.envelope.id, self._join.name) in state.revoked
        if is_revoked or not delivery.begin_ahead():
            return False
        event.delivery = delivery
        return True
