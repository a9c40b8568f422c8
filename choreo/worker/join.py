"""What a delivery does differently when its handler is a join.

Four kinds of event reach a join: its parts, what cancels it, its own deadline, and the wish of somebody who wants it
fired as it is. All settle the same unit, the join's key; only a part is an attempt to run it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from choreo.broker.workload import is_stopping
from choreo.context import Context
from choreo.envelope import Envelope
from choreo.errors import JoinExpiredError
from choreo.join import Join, age
from choreo.names import named_id
from choreo.parts import by_type, name_of, packed, unit_of, unpacked
from choreo.signals import DEADLINE, FIRED, SIGNALS
from choreo.store import Arrival, Begun, Claim, Scheduled, Settlement, Verdict, deadline_id
from choreo.worker.delivery import Delivery, Parts


class JoinDelivery(Delivery):
    """One copy of an event that a join waits for, is cancelled by, or is reminded by."""

    subscription: Join
    #: Waits for the answer to what was asked ahead.
    _asked: Callable[[], Begun | None] | None = None
    #: Whether that may have been done, although there is no answer.
    _in_doubt = False

    def make_claim(self) -> Claim:
        join, event = self.subscription, self.envelope
        # Its own signals speak of the key itself.
        key = event.subject if self._is_signal else join.key_of(event)
        # What cannot be read must be found out here, where it becomes a dead letter.
        self._told = join.told_by(event)
        return self.claim_on(unit_of(key), signal="" if self.is_part else event.id)

    def begin_ahead(self) -> bool:
        """Ask what `begin` asks, without waiting for the answer. False if this has to be begun in its turn."""
        if self.lease is None or self.lease.redelivered or self.attempt > 1 or not self.is_part:
            return False
        self._asked = self.store.arrive_ahead(self.claim, self._arrival)
        return self._asked is not None

    def begin(self) -> Begun:
        if self.is_part:
            begun = self._begun_ahead(self._asked) if self._asked else None
            return begun or self.store.arrive(self.claim, self._arrival)
        if not self._is_signal and not self.subscription.cancels(self.envelope):
            # A binding that an earlier version of the service left behind still brings such events.
            return Begun(Verdict.DONE)
        begun = self.store.begin(self.claim)
        if begun.verdict is Verdict.RUN and self._is_moot(begun):
            # It was no attempt, and the same signal may mean something later.
            claim = replace(self.claim, attempt=0)
            self.store.commit(claim, Settlement(done=False, scheduled=self._reminder(begun)))
            return Begun(Verdict.DONE)
        return begun

    def _begun_ahead(self, answer: Callable[[], Begun | None]) -> Begun | None:
        """What the store answered to what was asked ahead, if that is still true."""
        begun = answer()
        self._in_doubt = begun is None
        stopping = is_stopping()
        if stopping:
            # What was claimed may have been given back, and nothing is sent ahead any more.
            self.claim, self.line = replace(self.claim, line=None), None
        if begun is None or begun.verdict in (Verdict.WAIT, Verdict.DONE):
            return begun
        # Whoever was busy with it may have been this worker, a moment ago.
        holds = begun.verdict is not Verdict.BUSY and self.lease is not None and self.lease.is_certain
        return begun if holds and not stopping else None

    def parts_of(self, begun: Begun) -> Parts:
        # By name, and not by type: of some there are several. In the order of the join, however the store keeps them.
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
        What follows from a join follows from the part that was announced last, and is about what the first is about.

        Both are the same in whatever order the parts arrived, and whichever of them came again after a crash.
        """
        return self._context(self._cause(parts), self._about(parts), self._key_of(parts))

    def outdated(self) -> list[str]:
        return [deadline_id(self.claim.unit)]

    @property
    def remember(self) -> float:
        # What cancels a join may come long before its parts.
        return self.subscription.within.total_seconds()

    @property
    def is_part(self) -> bool:
        """Whether it is one of the events that the join waits for."""
        return self.envelope.type in self.subscription.parts

    @property
    def _is_signal(self) -> bool:
        return self.envelope.type in SIGNALS

    def _is_moot(self, begun: Begun) -> bool:
        """Whether a signal has nothing to say to this join any more."""
        if self.envelope.type == FIRED:
            return not begun.parts
        # It was complete in time, and only waits for its next attempt.
        return self.envelope.type == DEADLINE and self._complete(begun)

    def _reminder(self, begun: Begun) -> list[Scheduled]:
        """
        One of the parts of a complete join once more, in case that nobody has begun it.

        What was incomplete when its last part came can be complete since: its service needs less now. Where an attempt
        was made, the copy is done before.
        """
        if not begun.parts:
            return []
        part, *_ = self.parts_of(begun).values()
        return [Scheduled(f"again:{self.claim.token}", self.own_message(part))]

    def _complete(self, begun: Begun) -> bool:
        return self.subscription.is_complete(by_type(unpacked(begun.parts)))

    def _key_of(self, parts: Parts) -> str:
        """
        The idempotency key. It follows from the join's key and from what has arrived, which no attempt sees otherwise.

        The same key may be joined again once the first time is forgotten: what follows from that is another fact.
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
    def _arrival(self) -> Arrival:
        join, event = self.subscription, self.envelope
        return Arrival(
            part=event.type,
            name=name_of(event, join.several),
            text=packed(event),
            needs=dict.fromkeys(join.parts) | {part: need or 0 for part, need in join.needs().items()},
            at_least=join.quorum,
            within=join.within.total_seconds(),
            told=self._told,
            again=self._in_doubt or (self.lease is not None and self.lease.redelivered),
        )
