"""
Asking ahead: one round trip to the store for several parts of a join.

The store must be asked about each part (`arrive`), and most of a question's time is its way there and back. So the
questions about the parts that a worker took together go out together, before the first of these parts is delivered.
Each answer is read when its part is delivered: see `FastDecisions.arrive`.

A part must not overtake a cancellation that came before it. So after a message that is not a part, asking
ahead stops until that message is settled. With threads that can be long after its delivery. A redelivered message may
have killed its worker, so it is asked about alone.
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
from choreo.fast.decisions import FastDecisions

#: The most messages that are asked about together.
MOST_AHEAD = 16
#: `Taken.note` of a message that cannot be asked about ahead. Nothing behind it is, until it is delivered.
ALONE = "alone"


class Ahead:
    """Asks ahead about the parts of one join. ``task`` is its handler's `FastHandlerTask`."""

    def __init__(self, task: Any) -> None:
        self._task = task
        #: The tags of messages that are no parts, or may be none, and that may not be settled yet.
        self._others: list[str] = []

    def begin(self, channel: Any, commits: Commits, first: Taken, following: Sequence[Taken]) -> None:
        """
        Ask about the parts among the messages that the channel took, up to the first message that is no part.

        ``first`` is about to be delivered, ``following`` are behind it. The delivery made for a part is kept in
        `EventText.prepared`, and its `Taken.begun` becomes true.
        """
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
            # It is a retry or a redelivery, or cannot be read here. It may be a cancellation.
            self._others.append(taken.tag)
            return False
        delivery = self._task.fast_delivery(event.envelope, 1, channel.receipt_of(taken), commits, event.lineage)
        if not (isinstance(delivery, JoinDelivery) and delivery.is_part):
            self._others.append(taken.tag)
            return False
        # Making the id takes time, and hardly ever is any task revoked.
        if state.revoked and task_id(event.envelope.occasion, self._task.name) in state.revoked:
            return False
        decisions = delivery.decisions
        if not (isinstance(decisions, FastDecisions) and decisions.ask_ahead(delivery.claim, delivery.arrival)):
            return False
        event.prepared = delivery
        return True


def to_begin(first: Taken, following: Sequence[Taken]) -> list[Taken]:
    """
    The messages to ask about together before ``first`` is delivered: ``first`` and its neighbours of the same queue.

    Empty until half of the current batch has been delivered.
    """
    if first.begun and (not following or following[min(len(following), MOST_AHEAD // 2) - 1].begun):
        return []
    line = [first, *takewhile(lambda taken: taken.queue == first.queue, islice(following, MOST_AHEAD - 1))]
    together = list(dropwhile(lambda taken: taken.begun, line))
    return [] if together and together[0].note is ALONE else together
