"""
Beginning parts of joins several at a time.

Each part has to be asked about, and most of a question's time is its way to the store and back. So the parts that a
worker took together are asked about together, before the first of them is begun.

A part must not overtake the cancellation that came before it: nothing behind a cancellation in the queue is asked about
until that is settled, which with threads may be long after it was delivered. A message that once brought its worker
down is begun alone.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import dropwhile, islice, takewhile
from typing import Any

from celery.worker import state

from choreo.broker import workload
from choreo.broker.redis.taken import Taken
from choreo.delivery.join import JoinDelivery
from choreo.errors import EnvelopeError
from choreo.events.ids import task_id
from choreo.fast.commits import Commits
from choreo.fast.held import HeldStore

#: Messages that are begun together, at most.
MOST_AHEAD = 16
#: `Taken.note` of a message that cannot be begun together with others: nothing behind it is, until it is delivered.
ALONE = "alone"


class Ahead:
    """Begins the parts of one join. ``task`` is its handler's `FastHandlerTask`."""

    def __init__(self, task: Any) -> None:
        self._task = task
        #: The tags of the messages that were no part.
        self._others: list[str] = []

    def begin(self, channel: Any, commits: Commits, first: Taken, following: Sequence[Taken]) -> None:
        """Begin the parts among the first messages that this channel took. ``first`` is about to be delivered."""
        together = to_begin(first, following)
        if not together:
            return
        count = self._begin_some(channel, commits, together)
        for taken in together[:count]:
            taken.begun = True
        for taken in together[count : count + 1]:
            taken.note = ALONE

    def _begin_some(self, channel: Any, commits: Commits, together: Sequence[Taken]) -> int:
        if self._others and workload.has(self._others):
            return 0
        self._others, count = [], 0
        # A message that cannot be read fails in its turn.
        with suppress(EnvelopeError):
            while count < len(together) and self._begin_one(channel, commits, together[count]):
                count += 1
        if count:
            commits.flush(wait=False)
        return count

    def _begin_one(self, channel: Any, commits: Commits, taken: Taken) -> bool:
        event = taken.event
        if event is None:
            # It was not read yet, so it may be a cancellation.
            self._others.append(taken.tag)
            return False
        delivery = self._task.held_delivery(event.envelope, 1, channel.receipt_of(taken), commits)
        if not (isinstance(delivery, JoinDelivery) and delivery.is_part):
            self._others.append(taken.tag)
            return False
        # Mostly nothing is revoked, and an id need not be made to find that out.
        if state.revoked and task_id(event.envelope.id, self._task.name) in state.revoked:
            return False
        held = delivery.decisions
        if not (isinstance(held, HeldStore) and held.ask_ahead(delivery.claim, delivery.arrival)):
            return False
        event.note = delivery
        return True


def to_begin(first: Taken, following: Sequence[Taken]) -> list[Taken]:
    """
    The messages to begin together before ``first`` is delivered. They are neighbours in one queue.

    Empty until half of the current batch has been delivered.
    """
    if first.begun and (not following or following[min(len(following), MOST_AHEAD // 2) - 1].begun):
        return []
    line = [first, *takewhile(lambda taken: taken.queue == first.queue, islice(following, MOST_AHEAD - 1))]
    together = list(dropwhile(lambda taken: taken.begun, line))
    return [] if together and together[0].note is ALONE else together
