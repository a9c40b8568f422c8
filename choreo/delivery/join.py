"""How a delivery differs when its handler is a join.

Four kinds of event reach a join: its parts, the events that cancel it, its own deadline, and the request to fire it by
hand. All settle the same unit, the join's key. Only a part is an attempt to run it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from choreo.declare.context import Context
from choreo.declare.join import Join, age
from choreo.declare.subscription import Subscription
from choreo.delivery.delivery import Delivery, Parts
from choreo.delivery.ports import Ports
from choreo.delivery.signals import DEADLINE, FIRED, SIGNALS
from choreo.errors import JoinExpiredError
from choreo.events.envelope import Envelope
from choreo.events.ids import named_id
from choreo.store.claims import Begun, Claim, Settlement, Verdict
from choreo.store.joins import Arrival
from choreo.store.parts import by_type, name_of, packed, unit_of, unpacked
from choreo.store.schedule import Scheduled, deadline_id


class JoinDelivery(Delivery):
    """One copy of an event for a join: a part, a cancellation, or a signal."""

    subscription: Join

    def make_claim(self) -> Claim:
        join, event = self.subscription, self.envelope
        # A signal is about the key itself.
        key = event.subject if self._is_signal else join.key_of(event)
        # An event that cannot be read must be found out here, where it becomes a dead letter.
        self._told = join.told_by(event)
        return self.claim_on(unit_of(key), signal="" if self.is_part else event.id)

    def begin(self) -> Begun:
        if self.is_part:
            return self.decisions.arrive(self.claim, self.arrival)
        if not self._is_signal and not self.subscription.cancels(self.envelope):
            # A binding that an earlier version of the service left behind still brings such events.
            return Begun(Verdict.DONE)
        begun = self.decisions.begin(self.claim)
        if begun.verdict is Verdict.RUN and self._is_moot(begun):
            # It was no attempt, and the same signal may mean something later.
            claim = replace(self.claim, attempt=0)
            self.decisions.commit(claim, Settlement(done=False, scheduled=self._reminder(begun)))
            return Begun(Verdict.DONE)
        return begun

    def parts_of(self, begun: Begun) -> Parts:
        # By name, and not by type: there are several of some types. In the order of the join, whatever the store's is.
        found = zip(begun.parts, unpacked(begun.parts), strict=True)
        return dict(sorted(found, key=lambda part: (self.subscription.place_of(part[1]), age(part[1]))))

    def react(self, parts: Parts, context: Context) -> list[Envelope]:
        join = self.subscription
        if join.cancels(self.envelope):
            return []
        taken = join.in_order(by_type(parts.values()))
        if self.envelope.type != DEADLINE:
            return join.reaction(taken, context)
        if join.on_timeout is None:
            arrived = ", ".join(sorted(parts)) or "nothing"
            raise JoinExpiredError(f"incomplete after {join.within}: only {arrived} had arrived")
        return join.on_timeout(taken, context)

    def context(self, parts: Parts) -> Context:
        """
        The cause is the part that was announced last; the subject is that of the first part.

        Both stay the same in whatever order the parts arrive, and whichever of them comes again after a crash.
        """
        return self._context(self._cause(parts), self._about(parts), self._key_of(parts), tuple(parts.values()))

    def outdated(self) -> list[str]:
        return [deadline_id(self.claim.unit)]

    @property
    def remember(self) -> float:
        # A cancellation may come long before the parts.
        return self.subscription.within.total_seconds()

    @property
    def is_part(self) -> bool:
        """True for an event that the join waits for."""
        return self.envelope.type in self.subscription.parts

    @property
    def _is_signal(self) -> bool:
        return self.envelope.type in SIGNALS

    def _is_moot(self, begun: Begun) -> bool:
        """True for a signal that no longer has an effect on this join."""
        if self.envelope.type == FIRED:
            return not begun.parts
        # It was complete in time, and only waits for its next attempt.
        return self.envelope.type == DEADLINE and self._complete(begun)

    def _reminder(self, begun: Begun) -> list[Scheduled]:
        """
        One part of a complete join once more, in case that no worker has begun it.

        A join that was incomplete when its last part came can be complete now: a new version of the service needs less.
        If an attempt was made, the copy is done before.
        """
        if not begun.parts:
            return []
        part, *_ = self.parts_of(begun).values()
        return [Scheduled(f"again:{self.claim.token}", self.own_message(part))]

    def _complete(self, begun: Begun) -> bool:
        return self.subscription.is_complete(by_type(unpacked(begun.parts)))

    def _key_of(self, parts: Parts) -> str:
        """
        The idempotency key. It follows from the join's key and from its parts, which are the same for each attempt.

        The same key may be joined again once the first time is forgotten. Those are other parts, so it is another key.
        """
        what = named_id("/".join(sorted(envelope.id for envelope in parts.values())))
        return f"{self.idempotency_key}/{what}{'/expired' if self.envelope.type == DEADLINE else ''}"

    def _cause(self, parts: Parts) -> Envelope:
        return max(parts.values(), key=age, default=self.envelope)

    def _about(self, parts: Parts) -> str | None:
        first: list[Envelope] | Envelope | None = None
        for first in self.subscription.in_order(by_type(parts.values())):
            if first:
                break
        if isinstance(first, Sequence):
            first = first[0] if first else None
        return first.subject if first else None

    @property
    def arrival(self) -> Arrival:
        """This part, and the parts that the join needs."""
        join, event = self.subscription, self.envelope
        return Arrival(
            part=event.type,
            name=name_of(event, join.several),
            text=packed(event),
            needs=dict.fromkeys(join.parts) | {part: need or 0 for part, need in join.needs().items()},
            at_least=join.quorum,
            within=join.within.total_seconds(),
            told=self._told,
            again=self.redelivered,
        )


def delivery_to(ports: Ports, subscription: Subscription, envelope: Envelope, attempt: int, **options: Any) -> Delivery:
    """
    A delivery to this handler. ``options`` are those of `Delivery`.

    Raises `EnvelopeError` when the handler can do nothing with such an event.
    """
    kind = JoinDelivery if isinstance(subscription, Join) else Delivery
    return kind(ports, subscription, envelope, attempt, **options)
