"""
Claims of several deliveries in one round trip, before the first of them is delivered: for RabbitMQ.

The messages that have arrived are claimed together, and joins are told of their parts. The first message is about to be
handled, so its claim counts as a beginning. The others are *claimed ahead*: for `AHEAD_SECONDS`, and not counted. So an
event that kills its worker does not park those that were claimed beside it: they are delivered again, and a redelivered
message begins alone. If their turn comes late, because a handler was slow, they ask the store again.

Not claimed here are messages that no new event of choreo's is in (retries, redeliveries, events of other programs),
revoked tasks, and handlers that something observes or limits. A part of a join must not overtake a cancellation that
came before it. So after a message that is not a part, no part of that join is claimed before that message is settled.
"""

import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from celery.worker import state

from choreo.broker import workload
from choreo.broker.incoming import EventText
from choreo.broker.rabbitmq.taken import Taken
from choreo.declare.join import Join
from choreo.delivery.delivery import Delivery
from choreo.delivery.join import JoinDelivery
from choreo.errors import EnvelopeError, StoreError
from choreo.events.ids import task_id
from choreo.fast.commit_group import CommitGroup
from choreo.fast.rabbit_decisions import RabbitDecisions, ahead_of
from choreo.store.port import Store
from choreo.store.together import Beginning

logger = logging.getLogger(__name__)

#: The most messages that are claimed together.
MOST_AHEAD = 32
#: `Taken.note` of a message for a join that is no part, or may be none, until it is delivered.
WAITS = "waits"
#: Callback: the delivery of a message to the handler's task; it decides by a `RabbitDecisions`.
Prepare = Callable[[Any, Taken], Delivery]


class ClaimGroup:
    """
    Claims what has arrived on one channel.

    ``tasks`` are the handlers' tasks by the names of their queues, ``direct`` the handlers whose deliveries are run as
    they are (see `Lane.direct`), ``commits`` the commits of the channel.
    """

    def __init__(
        self,
        store: Store,
        tasks: Mapping[str, Any],
        direct: Container[str],
        prepare: Prepare,
        commits: CommitGroup,
    ) -> None:
        self._store, self._tasks, self._direct = store, tasks, direct
        self._prepare, self._commits = prepare, commits
        #: Queue of a join → the messages that are no parts, or may be none, and that may not be settled yet.
        self._others: dict[str, list[Taken]] = {}

    def begin(self, first: Taken, following: Sequence[Taken]) -> None:
        """
        Claim ``first``, which is about to be delivered, and those behind it, if there are any.

        The delivery made for a message is kept in `EventText.prepared`, and its `Taken.begun` becomes true. Raises
        nothing: what could not be claimed is claimed in its turn.
        """
        if not workload.is_stopping() and not first.begun:
            if following:
                self._begin(first, following)
            elif isinstance(self._tasks[first.queue].subscription, Join):
                self._delivery_of(first)  # to note it if it is no part
        first.note = None  # from now on `workload` knows it

    def _begin(self, first: Taken, following: Sequence[Taken]) -> None:
        asked: list[tuple[Delivery, Beginning]] = []
        for taken in (first, *islice(following, MOST_AHEAD - 1)):
            if taken.begun:
                continue
            taken.begun = True
            delivery = self._delivery_of(taken)
            if delivery is not None:
                claim = delivery.claim if taken is first else ahead_of(delivery.claim)
                arrival = delivery.arrival if isinstance(delivery, JoinDelivery) else None
                asked.append((delivery, (claim, arrival)))
        if len(asked) > 1:
            self._ask(asked)

    def _ask(self, asked: Sequence[tuple[Delivery, Beginning]]) -> None:
        self._commits.settle_units(delivery.claim for delivery, _ in asked)
        now = time.monotonic()
        answers = self._store.begin_all([beginning for _, beginning in asked])
        for (delivery, (claim, _)), answer in zip(asked, answers, strict=True):
            if isinstance(delivery.decisions, RabbitDecisions):
                delivery.decisions.claimed(claim, answer, now)

    def _delivery_of(self, taken: Taken) -> Delivery | None:
        """The delivery to claim; None if the message is not claimed here."""
        task, event = self._tasks[taken.queue], taken.event
        if task.name not in self._direct or _waits_elsewhere(task):
            return None
        is_join = isinstance(task.subscription, Join)
        delivery = None
        with suppress(EnvelopeError):  # a message that cannot be read fails in its turn
            if event is not None:
                delivery = event.prepared = self._prepare(task, taken)
        if not _can_be_claimed(delivery, is_join=is_join):
            if is_join:
                taken.note = WAITS
                self._is_behind_another(taken.queue)  # forgets those that are settled
                self._others.setdefault(taken.queue, []).append(taken)
            return None
        if is_join and self._is_behind_another(taken.queue):
            return None
        # Making the id takes time, and hardly ever is any task revoked.
        if event is not None and state.revoked and task_id(event.envelope.occasion, task.name) in state.revoked:
            return None
        return delivery

    def _is_behind_another(self, queue: str) -> bool:
        """True if a message of this join that is no part may not be settled yet."""
        if others := self._others.get(queue):
            self._others[queue] = [taken for taken in others if taken.note is WAITS or workload.has([str(taken.tag)])]
        return bool(self._others.get(queue))

    def release(self, back: Sequence[Taken]) -> None:
        """Give up the claims of messages that go back to their queues."""
        release(self._store, [event for taken in back if taken.begun and (event := taken.event)])


def release(store: Store, events: Sequence[EventText]) -> None:
    """Give up the claims that were made ahead for these events, as far as their handlers have not begun."""
    prepared = [event.prepared for event in events]
    claims = [
        delivery.claim
        for delivery in prepared
        if isinstance(delivery, Delivery) and isinstance(delivery.decisions, RabbitDecisions)
    ]
    if claims:
        try:
            store.release(claims)
        except StoreError as error:  # they run out soon
            logger.debug("%d claims ahead could not be given up: %s", len(claims), error)


def _waits_elsewhere(task: Any) -> bool:
    """True if deliveries to this handler's task may wait for long after they were delivered."""
    subscription = task.subscription
    limits = task.rate_limit, subscription.concurrency, getattr(subscription, "sequential", None)
    return any(limits)


def _can_be_claimed(delivery: Delivery | None, *, is_join: bool) -> bool:
    if delivery is None or not isinstance(delivery.decisions, RabbitDecisions) or not delivery.decisions.is_together:
        return False
    return delivery.is_part if is_join and isinstance(delivery, JoinDelivery) else type(delivery) is Delivery
