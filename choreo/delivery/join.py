"""The delivery of an event to a join.

Four kinds of event reach a join: its parts, the events that cancel it, its deadline, and the signal to fire it by hand.
All may settle the same unit, which is the join's key. Attempts of parts, of each signal and of each cancelling event
are counted apart.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from choreo.declare.context import Context
from choreo.declare.description import kind_in
from choreo.declare.join import Join, age
from choreo.declare.reaction import Announcing
from choreo.delivery.dead_letter import Reason
from choreo.delivery.delivery import DONE, Delivery, Parts
from choreo.delivery.loop import deepest
from choreo.delivery.signals import ABANDONED, DEADLINE, FIRED, SIGNALS
from choreo.errors import EnvelopeError, JoinExpiredError
from choreo.events.envelope import Envelope
from choreo.events.ids import named_id
from choreo.store.claims import COMPLETE, SURPLUS, Claim, ClaimResult, Settlement, Verdict
from choreo.store.joins import Arrival
from choreo.store.parts import CANCELLED, addressed, by_type, mark_of, name_of, packed, read_address, unit_of, unpacked
from choreo.store.runs import Entry, Result, Run, other_stories
from choreo.store.schedule import Scheduled, deadline_id

logger = logging.getLogger(__name__)

#: The type of a signal → how a join ends that runs by it.
_ENDS = {DEADLINE: Result.TIMED_OUT, FIRED: Result.FIRED}
#: Notes of settled joins that say nothing of the parts: a cancellation, and the note of a unit that is no join.
UNKNOWN = (CANCELLED, "1")
_WAY_OUT = (
    "If new events are to begin a new round of the same key, declare the join with rounds=True. `choreo joins list` "
    "counts such events."
)
#: `ClaimResult.note` → the warning; "" is for the note of a settled join.
_MISSED = {
    "": f"%s (id %s) came too late: the join with the key %r is settled, and ignores the event. {_WAY_OUT}",
    COMPLETE: f"%s (id %s) came too late: the join with the key %r is complete, and ignores the event. {_WAY_OUT}",
    SURPLUS: f"%s (id %s) is ignored: the join with the key %r has enough events of this type. {_WAY_OUT}",
}


class JoinDelivery(Delivery):
    """One copy of an event for a join: a part, a cancellation, or a signal."""

    subscription: Join
    #: The parts with which the join runs, once it has begun.
    parts: Parts = MappingProxyType({})
    _arrival: Arrival | None = None

    def make_claim(self) -> Claim:
        """The claim on the join's key. Raises `EnvelopeError` if the event does not tell its key or its counts."""
        join = self.subscription
        key = None
        if self.envelope.extensions:
            self.envelope, key = read_address(self.envelope)
        #: True for a message that this join sent to itself, for the key that it names.
        self._is_own = key is not None
        event = self.envelope
        if key is None:
            # The subject of a signal is the key.
            key = event.subject if self._is_signal else join.key_of(event)
        self.key = key
        if self.attempt > 1 and not (self._is_own or self._is_signal or self.is_part or join.cancels(event)):
            raise EnvelopeError(f"{join.name} has become a join since this event failed, and does not wait for {event}")
        # Read here, because an event that cannot be read becomes a dead letter if this method raises.
        self._counts = join.counts_in(event)
        signal = "" if self.is_part or self._is_retry else event.id if self._is_signal else event.identity
        claim = self.claim_on(unit_of(key), signal)
        if join.rounds and join.cancels(event):
            claim.once = event.identity
        return claim

    def begin(self) -> ClaimResult:
        """
        Record a part, and claim the join if it is complete; or claim the join for a cancellation or a signal.

        DONE for a signal that no longer has an effect, and for an event that this join does not declare.
        """
        if self.is_part:
            result = self.decisions.arrive(self.claim, self.arrival)
            if result.note:
                self._warn_of_missed(result)
            return result
        if not (self._is_signal or self._is_retry or self.subscription.cancels(self.envelope)):
            # A binding that an earlier version of the service made still brings such events.
            warn_of_unknown(self.subscription, self.envelope)
            return ClaimResult(Verdict.DONE)
        result = self.decisions.begin(self.claim)
        if result.verdict is Verdict.RUN and self._is_moot(result):
            # It counts as no attempt: the same signal may have an effect later.
            claim = replace(self.claim, attempt=0)
            self.decisions.commit(claim, Settlement(done=False, scheduled=self._parts_once_more(result)))
            return ClaimResult(Verdict.DONE)
        return result

    def seize(self) -> ClaimResult:
        """
        Claim the join for a revocation, complete or not. No part is recorded. Raises `StoreError`.

        If the event belongs to the next round, only a unit of its own is claimed. DONE if it took part in a round.
        """
        result = self.decisions.begin(self.claim)
        if result.verdict is not Verdict.DONE or not (self.is_part and self.subscription.rounds):
            return result
        # The join is settled, or a round with other events waits for its next attempt.
        pending = self.ports.store.look(self.claim.handler, self.claim.unit)
        if pending is not None and self._is_among(pending.parts):
            return result
        event = self.envelope.identity
        self.claim = Claim(self.claim.handler, f"revoked:{self.token}", self.token, attempt=0, once=event)
        return self.decisions.begin(self.claim)

    def revoke(self, result: ClaimResult, why: str) -> str:
        """
        Make a dead letter of a complete join, or of a signal to a join. Otherwise only the event becomes one.

        The join then waits for its replay. A part that was recorded before needs no dead letter: it is in the join.
        """
        is_known = self.is_part and self._is_among(result.parts)
        is_whole = not self._is_moot(result) if self._is_signal else is_known and self._complete(result)
        if is_whole:
            return super().revoke(result, why)
        self.claim = replace(self.claim, attempt=0)  # the join itself is not attempted
        if is_known or self._is_signal:
            return self._commit(Settlement(done=False, remember=self.remember)) or DONE
        letter = self._letter({self.envelope.type: self.envelope}, Reason.REVOKED, why)
        letter = replace(letter, unit=None, attempts=self.attempt - 1)
        return self._commit_letter(letter, done=False) or f"dead letter {letter.id}: {letter.reason}"

    def parts_of(self, result: ClaimResult) -> Parts:
        """The parts that have arrived, by name, in the order of the join's declaration and then of their age."""
        # Not by type: there can be several of a type.
        found = zip(result.parts, unpacked(result.parts), strict=True)
        self.parts = dict(sorted(found, key=lambda part: (self.subscription.place_of(part[1]), age(part[1]))))
        return self.parts

    def react(self, parts: Parts, context: Context) -> Announcing:
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

        Both are the same for every order of arrival, and for every part that is redelivered after a crash. The hops
        are those of the part with the most.
        """
        cause = deepest(self._cause(parts), () if self.envelope.replay else parts.values())
        return self._context(cause, self._about(parts), self._key_of(parts), tuple(parts.values()))

    def outdated(self) -> list[str]:
        """The id of the join's deadline in the schedule."""
        return [deadline_id(self.claim.unit)]

    @property
    def remember(self) -> float:
        """The join's ``within`` in seconds: a cancellation may come that long before the parts."""
        return self.subscription.within.total_seconds()

    def finished(self, **records: Any) -> Settlement:
        """A settlement that finishes the join, and remembers the events that took part."""
        settlement = super().finished(**records)
        identities = [envelope.identity for envelope in self.parts.values()]
        is_cancelled = self.subscription.cancels(self.envelope)
        settlement.note = CANCELLED if is_cancelled else " ".join(map(mark_of, identities)) or CANCELLED
        if self.subscription.rounds:
            settlement.took_part = [*identities, self.envelope.identity] if is_cancelled else identities
        return settlement

    def own_event(self, envelope: Envelope) -> Envelope:
        """The event as a message to this join carries it: with the key."""
        return addressed(envelope, self.key)

    def run_of(self, ended: Result, announced: Sequence[Envelope], detail: str) -> Run:
        """The run that ends now. It belongs to the stories of all parts; a signal belongs to none."""
        run = super().run_of(ended, announced, detail)
        parts, is_cancelled = list(self.parts.values()), self.subscription.cancels(self.envelope)
        if not is_cancelled and not self.is_part:
            cause = self._cause(self.parts)
            run.event, run.story, run.subject = cause.id, cause.correlation_id, cause.subject
        if ended is Result.DONE:
            run.result = Result.CANCELLED if is_cancelled else _ENDS.get(self.envelope.type, ended)
        run.parts = [(part.type, part.id) for part in parts]
        run.others = other_stories(parts, run.story)
        return run

    def plain_entry(self, ended: Result, announced: Sequence[Envelope]) -> Entry | None:  # noqa: ARG002
        """None: the run of a join names its parts."""
        return None

    @property
    def handled(self) -> Sequence[Envelope]:
        """The parts with which the join has run."""
        return tuple(self.parts.values())

    @property
    def is_part(self) -> bool:
        """True for an event that the join waits for."""
        return self.envelope.type in self.subscription.parts

    def _is_among(self, parts: Mapping[str, str]) -> bool:
        """True if the join keeps this event, also under the name that another declaration gave it."""
        event = self.envelope
        others = event.type, name_of(event, [event.type])
        return name_of(event, self.subscription.many) in parts or packed(event) in map(parts.get, others)

    @property
    def _is_signal(self) -> bool:
        return self.envelope.type in SIGNALS

    @property
    def _is_retry(self) -> bool:
        """True for a message of this join to itself whose event is no part any more, by a new declaration."""
        known = self.is_part or self._is_signal or self.subscription.cancels(self.envelope)
        return self._is_own and not known

    def _is_moot(self, result: ClaimResult) -> bool:
        """True for a signal that no longer has an effect on this join."""
        if self._is_signal and self.subscription.rounds and self._is_outdated():
            return True
        if self.envelope.type == ABANDONED:
            return True  # it was meant for a story, whose name this join has now
        if self.envelope.type == FIRED:
            return not result.parts
        if self.envelope.type == DEADLINE:
            # It was complete in time, and waits for its next attempt.
            return self._complete(result)
        return self._is_retry and not self._complete(result)

    def _is_outdated(self) -> bool:
        """True for a signal to an earlier round: it was sent before the first part of this round arrived."""
        pending = self.ports.store.look(self.claim.handler, self.claim.unit)
        since = min(pending.arrived.values(), default=0.0) if pending else 0.0
        return self.envelope.time.timestamp() < since

    def _parts_once_more(self, result: ClaimResult) -> list[Scheduled]:
        """
        Messages with parts of the join, to be delivered again in case that no worker has begun the join.

        A join that was incomplete when its last part came can be complete now, if a new version of the service needs
        fewer parts. Parts that tell how many others are needed may tell another number to the new version. If an
        attempt was made already, the messages do nothing.
        """
        parts = [part for part in self.parts_of(result).values() if part.type in self.subscription.parts]
        telling = {several.of.event_type for several in self.subscription.several.values() if several.of}
        chosen = [part for part in parts if part.type in telling] or parts[:1]
        token = self.claim.token
        return [Scheduled(f"again:{token}:{number}", self.own_message(part)) for number, part in enumerate(chosen)]

    def _complete(self, result: ClaimResult) -> bool:
        return self.subscription.is_complete(by_type(unpacked(result.parts)))

    def _warn_of_missed(self, result: ClaimResult) -> None:
        """Log an event that did not count for the join, unless it came before, or is expected to come late."""
        if self._is_own or self.redelivered or self.subscription.at_least:
            return
        if result.note in UNKNOWN or mark_of(self.envelope.identity) in result.note.split():
            return
        logger.warning(_MISSED[result.note if result.note in _MISSED else ""], self, self.envelope.id, self.key)

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
        first = next(iter(parts.values()), None)
        # Events of unknown types come after all parts.
        return first.subject if first is not None and first.type in self.subscription.parts else None

    @property
    def arrival(self) -> Arrival:
        """This part, and the parts that the join needs, for `Decisions.arrive`. It is made once, when it is needed."""
        if self._arrival is None:
            join, event = self.subscription, self.envelope
            self._arrival = Arrival(
                part=event.type,
                name=name_of(event, join.many),
                text=packed(event),
                needs=join.needed,
                round_of=event.identity if join.rounds else "",
                at_least=join.quorum,
                within=join.within.total_seconds(),
                counts=self._counts,
                may_be_repeated=self.redelivered,
            )
        return self._arrival


class FormerJoinDelivery(Delivery):
    """A signal to a join whose handler is no join any more: its parts become a dead letter. Others are forgotten."""

    def make_claim(self) -> Claim:
        """The claim on the join's key, which is the subject of the signal."""
        return self.claim_on(unit_of(self.envelope.subject), self.envelope.id)

    def begin(self) -> ClaimResult:
        """Claim the join. DONE if no part of it is left, or it was a story or an undo."""
        result = super().begin()
        if result.verdict is Verdict.RUN and (not result.parts or self._was_no_join()):
            self.decisions.commit(replace(self.claim, attempt=0), self.finished(note=CANCELLED))
            return ClaimResult(Verdict.DONE)
        return result

    def _was_no_join(self) -> bool:
        """True if it was a story, or an undo: their events are of no more use."""
        described = json.loads(self.ports.store.joins().get(self.subscription.name, "{}"))
        return kind_in(described) != "join"

    def parts_of(self, result: ClaimResult) -> Parts:
        """The parts that had arrived, by name."""
        return dict(zip(result.parts, unpacked(result.parts), strict=True))

    def react(self, parts: Parts, context: Context) -> Announcing:  # noqa: ARG002
        """Raises `JoinExpiredError`: there is no function that takes these events."""
        arrived = ", ".join(sorted(parts)) or "nothing"
        raise JoinExpiredError(f"{self.subscription.name} is no join any more: {arrived} had arrived")

    def outdated(self) -> list[str]:
        """The id of the join's deadline in the schedule."""
        return [deadline_id(self.claim.unit)]


def warn_of_unknown(join: Join, event: Envelope) -> None:
    """Log, once per type and process, that a join gets events that it does not wait for."""
    if (join.name, event.type) not in _warned_unknown:
        _warned_unknown.add((join.name, event.type))
        logger.warning(
            "%s does not wait for %s (id %s), and ignores it. An earlier version of the service did. Logged once per "
            "type and process.",
            join.name,
            event,
            event.id,
        )


#: The joins and types that `warn_of_unknown` has named.
_warned_unknown: set[tuple[str, str]] = set()
