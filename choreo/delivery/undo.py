"""
The delivery of an event to a handler that undoes an effect.

::

    effect ──> waits, until a failure comes, an event of ``unless``, or the deadline: then nothing is left of it
    failure ─> settles the key for good, and demands to undo each effect that waits. It is remembered as long
    effect of a key with a failure ─> is undone at once

Each demand is a message to the handler's own queue, with both events. It is a unit of its own, the effect's event: so
each effect is undone once, whatever else is demanded, delivered twice or replayed. A failure without an effect leaves
nothing that waits.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from choreo.declare.context import Context
from choreo.declare.reaction import Announcing
from choreo.declare.undo import Undo
from choreo.delivery.delivery import Delivery, Parts
from choreo.delivery.join import JoinDelivery
from choreo.delivery.loop import deepest
from choreo.delivery.signals import DEADLINE, FIRED
from choreo.errors import EnvelopeError
from choreo.events.envelope import Envelope
from choreo.events.message import Message, compact, parsed
from choreo.store.claims import COMPLETE, Claim, ClaimResult, Settlement, Verdict
from choreo.store.joins import Arrival
from choreo.store.parts import CANCELLED, demanded, mark_of, name_of, packed, read_demand, read_failure
from choreo.store.runs import Entry, Result, Run, other_stories
from choreo.store.schedule import Scheduled

logger = logging.getLogger(__name__)

#: What the store calls the two kinds of events.
_EFFECT, _FAILURE = "effect", "failure"
#: Seconds after which an effect comes again that arrived while its failure was being settled.
_SOON = 1.0
#: The notes of keys that ended otherwise than by a failure: the time was over; the failure became a dead letter.
_EXPIRED, _BURIED = "expired", "buried"


class UndoDelivery(JoinDelivery):
    """One copy of an effect's event, a failure, an event that cancels, or a signal. No function of the user runs."""

    subscription: Undo

    def begin(self) -> ClaimResult:
        """Record an effect or a failure, and claim the key if there is a failure; or claim it for a signal."""
        if not self.is_part:
            return super().begin()
        result = self.decisions.arrive(self.claim, self.arrival)
        return self._too_late(result) if result.verdict is Verdict.DONE else result

    def react(self, parts: Parts, context: Context) -> Announcing:  # noqa: ARG002
        """Nothing: what is demanded leaves with the settlement."""
        return []

    def finished(self, **records: Any) -> Settlement:
        """A settlement that finishes the key, and demands to undo each effect if there is a failure."""
        note, demands = self._outcome(is_letter="letter" in records)
        sent = {**records.pop("sent", {}), **demands}
        return Settlement(unscheduled=self.outdated(), remember=self.remember, note=note, sent=sent, **records)

    @property
    def arrival(self) -> Arrival:
        """This event, and what it is. There is no end to the effects, so that only a failure completes the key."""
        undo, event = self.subscription, self.envelope
        return Arrival(
            part=_EFFECT if self._is_effect else _FAILURE,
            name=name_of(event, undo.many),
            text=packed(event),
            needs={_FAILURE: None, _EFFECT: 0},
            at_least=1,
            within=undo.within.total_seconds(),
            may_be_repeated=self.redelivered,
        )

    @property
    def _is_effect(self) -> bool:
        return self.envelope.type in self.subscription.effects

    def _outcome(self, *, is_letter: bool) -> tuple[str, Mapping[str, Message]]:
        """The note of the finished key, and the demands."""
        if is_letter:
            return _BURIED, {}
        if self.subscription.cancels(self.envelope):
            return CANCELLED, {}
        effects = [event for event in self.parts.values() if event.type in self.subscription.effects]
        failure = self._failure()
        if failure is None and self.envelope.type != FIRED:
            return _EXPIRED, {}
        # By hand there is no failure, and later effects of the key are not undone.
        note = CANCELLED if failure is None else _note_of(failure, effects)
        return note, {f"undo:{one.identity}": self._demand(one, failure) for one in effects}

    def _failure(self) -> Envelope | None:
        """The failure among the parts, without its fields if the function does not read them."""
        found = (event for event in self.parts.values() if event.type in self.subscription.failures)
        failure = next(found, None)
        return failure if failure is None or self.subscription.takes_failure else replace(failure, data={})

    def _demand(self, effect: Envelope, failure: Envelope | None) -> Message:
        queue = self.ports.queue_of(self.subscription.name)
        # It does not leave by the schedule, which would seal it.
        return self.ports.publisher.sealed(Message.carrying(demanded(effect, failure), exchange="", routing_key=queue))

    def _too_late(self, result: ClaimResult) -> ClaimResult:
        """The answer for an event whose key has ended. An effect after a failure is undone all the same."""
        note = result.note
        if not self._is_effect:
            if note == _EXPIRED:
                logger.warning(
                    "%s (id %s) came after %s: nothing of %r is undone. Raise within= if that is too short.",
                    self, self.envelope.id, self.subscription.within, self.key,
                )  # fmt: skip
            return result
        if note in (COMPLETE, _BURIED):
            seconds = _SOON if note == COMPLETE else self.ports.terms.lease.total_seconds()
            return ClaimResult(Verdict.BUSY, busy_seconds=seconds)
        failure, marks = _read_note(note)
        if failure is not None and mark_of(self.envelope.identity) not in marks:
            demand = Scheduled(f"undo:{self.envelope.identity}", self._demand(self.envelope, failure))
            self.ports.store.schedule(self.claim.handler, demand)
        elif note == _EXPIRED:
            logger.warning(
                "%s (id %s) is not watched: the time for the effects of %r is over.", self, self.envelope.id, self.key
            )
        return result

    def _recorded(self, ended: Result, announced: Sequence[Envelope] = (), detail: str = "") -> Sequence[Entry]:
        """The entries in the record; none for an effect that stands: nothing happened to it."""
        if ended is Result.DONE and self.envelope.type == DEADLINE:
            return self._unrecorded(ended)
        return super()._recorded(ended, announced, detail)


class DemandedDelivery(Delivery):
    """The undoing of one effect. Its unit is the event of the effect."""

    subscription: Undo

    def make_claim(self) -> Claim:
        """The claim on the effect's event. Raises `EnvelopeError` if the message does not tell what demands it."""
        try:
            self.effect, self.failure = read_demand(self.envelope)
        except ValueError as error:
            raise EnvelopeError(str(error)) from error
        return super().make_claim()

    def react(self, parts: Parts, context: Context) -> Announcing:  # noqa: ARG002
        """Call the function with the event of the effect, and with that of the failure if it takes it."""
        given = [self.effect, self.failure] if self.subscription.takes_failure else [self.effect]
        return self.subscription.reaction(given, context)

    def context(self, parts: Parts) -> Context:  # noqa: ARG002
        """
        The cause is the failure, and the subject that of the effect.

        Both are the same for every order of arrival. The hops are those of the event with the most.
        """
        cause = deepest(self._cause, () if self.envelope.replay else self.handled)
        return self._context(cause, self.effect.subject, events=tuple(self.handled))

    @property
    def handled(self) -> Sequence[Envelope]:
        """The event of the effect, and that of the failure."""
        return (self.effect,) if self.failure is None else (self.effect, self.failure)

    def run_of(self, ended: Result, announced: Sequence[Envelope], detail: str) -> Run:
        """The run that ends now. It belongs to the stories of both events."""
        run = super().run_of(ended, announced, detail)
        run.story = self._cause.correlation_id
        run.parts = [(event.type, event.id) for event in self.handled]
        run.others = other_stories(self.handled, run.story)
        return run

    def plain_entry(self, ended: Result, announced: Sequence[Envelope]) -> Entry | None:  # noqa: ARG002
        """None: its run names two events."""
        return None

    @property
    def _cause(self) -> Envelope:
        return self.effect if self.failure is None else self.failure


def _note_of(failure: Envelope, effects: Sequence[Envelope]) -> str:
    """The note of a key with a failure: an effect that comes later finds it there, and the marks of those before."""
    marks = [mark_of(effect.identity) for effect in effects]
    return compact([compact([failure.type, packed(failure)]), marks])


def _read_note(note: str) -> tuple[Envelope | None, Sequence[str]]:
    """The failure in a note of `_note_of`, and the marks; None for any other note."""
    try:
        text, marks = parsed(note)
        return read_failure(text), [str(mark) for mark in marks]
    except (ValueError, TypeError):
        return None, ()
