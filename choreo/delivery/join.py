"""The delivery of an event to a join.

Four kinds of event reach a join: its parts, the events that cancel it, its deadline, and the signal to fire it by hand.
All may settle the same unit, which is the join's key. Attempts of parts, of each signal and of each cancelling event
are counted apart.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from choreo.declare.context import Context
from choreo.declare.join import Join, age
from choreo.declare.subscription import Subscription
from choreo.delivery.dead_letter import Reason
from choreo.delivery.delivery import DONE, Delivery, Parts
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
        """The claim on the join's key. Raises `EnvelopeError` if the event does not tell its key or its counts."""
        join, event = self.subscription, self.envelope
        # The subject of a signal is the key.
        key = event.subject if self._is_signal else join.key_of(event)
        # Read here, because an event that cannot be read becomes a dead letter if this method raises.
        self._told = join.told_by(event)
        signal = "" if self.is_part else event.id if self._is_signal else event.identity
        return self.claim_on(unit_of(key), signal)

    def begin(self) -> Begun:
        """
        Record a part, and claim the join if it is complete; or claim the join for a cancellation or a signal.

        DONE for a signal that no longer has an effect, and for an event that this join does not declare.
        """
        if self.is_part:
            return self.decisions.arrive(self.claim, self.arrival)
        if not self._is_signal and not self.subscription.cancels(self.envelope):
            # A binding that an earlier version of the service made still brings such events.
            return Begun(Verdict.DONE)
        begun = self.decisions.begin(self.claim)
        if begun.verdict is Verdict.RUN and self._is_moot(begun):
            # It counts as no attempt: the same signal may have an effect later.
            claim = replace(self.claim, attempt=0)
            self.decisions.commit(claim, Settlement(done=False, scheduled=self._reminder(begun)))
            return Begun(Verdict.DONE)
        return begun

    def seize(self) -> Begun:
        """Claim the join for a revocation, complete or not. No part is recorded. Raises `StoreError`."""
        return self.decisions.begin(self.claim)

    def revoke(self, begun: Begun, why: str) -> str:
        """
        Make a dead letter of a complete join, or of a signal to a join. Otherwise only the event becomes one.

        The join then waits for its replay. A part that was recorded before needs no dead letter: it is in the join.
        """
        is_known = self.is_part and name_of(self.envelope, self.subscription.several) in begun.parts
        is_whole = not self._is_moot(begun) if self._is_signal else is_known and self._complete(begun)
        if is_whole:
            return super().revoke(begun, why)
        self.claim = replace(self.claim, attempt=0)  # the join itself is not attempted
        if is_known or self._is_signal:
            return self._commit(Settlement(done=False, remember=self.remember)) or DONE
        letter = replace(self._letter({self.envelope.type: self.envelope}, Reason.REVOKED, why), unit=None)
        return self._commit_letter(letter, done=False) or f"dead letter {letter.id}: {letter.reason}"

    def parts_of(self, begun: Begun) -> Parts:
        """The parts that have arrived, by name, in the order of the join's declaration and then of their age."""
        # Not by type: there can be several of a type.
        found = zip(begun.parts, unpacked(begun.parts), strict=True)
        return dict(sorted(found, key=lambda part: (self.subscription.place_of(part[1]), age(part[1]))))

    def react(self, parts: Parts, context: Context) -> list[Envelope]:
        """
        Call the handler, or ``on_timeout`` after the deadline. A cancellation calls nothing.

        Raises `JoinExpiredError` after the deadline of a join without ``on_timeout``.
        """
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
        The cause is the part that was announced last; the subject is that of the first part in the join's order.

        Both are the same for every order of arrival, and for every part that is redelivered after a crash.
        """
        return self._context(self._cause(parts), self._about(parts), self._key_of(parts), tuple(parts.values()))

    def outdated(self) -> list[str]:
        """The id of the join's deadline in the schedule."""
        return [deadline_id(self.claim.unit)]

    @property
    def remember(self) -> float:
        """The join's ``within`` in seconds: a cancellation may come that long before the parts."""
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
        # It was complete in time, and waits for its next attempt.
        return self.envelope.type == DEADLINE and self._complete(begun)

    def _reminder(self, begun: Begun) -> list[Scheduled]:
        """
        A message with one part of a complete join, to be delivered again in case that no worker has begun the join.

        A join that was incomplete when its last part came can be complete now, if a new version of the service needs
        fewer parts. If an attempt was made already, the message does nothing.
        """
        if not begun.parts:
            return []
        part, *_ = self.parts_of(begun).values()
        return [Scheduled(f"again:{self.claim.token}", self.own_message(part))]

    def _complete(self, begun: Begun) -> bool:
        return self.subscription.is_complete(by_type(unpacked(begun.parts)))

    def _key_of(self, parts: Parts) -> str:
        """
        The idempotency key. It follows from the join's key and its parts, which are the same for each attempt.

        The same key may be joined again after the store has forgotten the first join. Those parts are other events, so
        the idempotency key is another one.
        """
        what = named_id("/".join(sorted(envelope.identity for envelope in parts.values())))
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
        """This part, and the parts that the join needs, for `Decisions.arrive`."""
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
