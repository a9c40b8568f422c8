"""The delivery of an event to a story.

To the store a story is a join of two parts: an event that begins it, and one that ends it. When both are there, the
story has ended. At its deadline, a story that has begun is announced as overdue, and stays pending until it ends or is
abandoned. The attempt of the deadline is settled then, so that it is announced once.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

from choreo.declare.context import Context
from choreo.declare.story import BEGIN, END, Story, first_of
from choreo.delivery.delivery import Parts
from choreo.delivery.join import JoinDelivery
from choreo.delivery.signals import ABANDONED, DEADLINE, SIGNALS, signal
from choreo.errors import EnvelopeError, UpcastError, VersionError
from choreo.events.alerts import StoryOverdue
from choreo.events.envelope import Envelope
from choreo.printing import one_line
from choreo.store.claims import Claim, ClaimResult, Settlement, Verdict
from choreo.store.joins import Arrival
from choreo.store.parts import CANCELLED, by_type, packed, read_address
from choreo.store.schedule import Scheduled, deadline_id

logger = logging.getLogger(__name__)

#: The time for which a story stays pending after it was announced as overdue.
KEPT = timedelta(days=30)


class Course(StrEnum):
    """The course of a story: the name of its counter."""

    #: It ended within its time, by the times of its events.
    IN_TIME = "ended_in_time"
    #: It ended later.
    LATE = "ended_late"
    #: It had begun and not ended at its deadline.
    OVERDUE = "overdue"
    #: No event that begins it had come at the deadline, only others.
    UNBEGUN = "unbegun"
    #: It was overdue, and has not ended for `KEPT`.
    ABANDONED = "abandoned"


class StoryDelivery(JoinDelivery):
    """One copy of an event for a story, or a signal to it. No function of the user runs."""

    subscription: Story
    #: The course of the story, once it is known.
    course: Course | None = None
    #: True for an event without a key. The story ignores it.
    is_keyless = False

    def make_claim(self) -> Claim:
        """
        The claim on the story's key; for an event without a key a claim that is never made.

        Raises `VersionError` or `UpcastError` if the event has a version whose key this code cannot read.
        """
        event, key = read_address(self.envelope)
        if key is None and event.type not in SIGNALS and event.type in self.subscription.parts:
            try:
                self.subscription.key_of(event)
            except (VersionError, UpcastError):
                raise  # it may have a key, which code of another version can read
            except EnvelopeError as error:
                warn_of_keyless(self.subscription, event, error)
                self.is_keyless = True
                return self.claim_on(event.identity)
        return super().make_claim()

    @property
    def is_part(self) -> bool:
        """True for an event of the story."""
        return super().is_part and not self.is_keyless

    def begin(self) -> ClaimResult:
        """Record an event of the story, and claim the story if it has ended; or claim it for a signal."""
        return ClaimResult(Verdict.DONE) if self.is_keyless else super().begin()

    def react(self, parts: Parts, context: Context) -> list[Envelope]:
        """Find out the course of the story. Announce that it is overdue."""
        self.course = self._course(by_type(parts.values()))
        if self.course is Course.OVERDUE:
            context.announce(self._overdue(by_type(parts.values())))
        return context.leaving

    def finished(self, **records: Any) -> Settlement:
        """A settlement that finishes the story, unless it is overdue, and counts its course."""
        if self.course is not Course.OVERDUE:
            course = str(self.course or "")
            return Settlement(
                unscheduled=self.outdated(), remember=self.remember, note=CANCELLED, counted=course, **records
            )
        later = [self._signal(ABANDONED, self._abandonment_id, KEPT)]
        if self.envelope.replay:
            # The dead letter has removed the deadline, by which pending stories are found. It is sent without effect.
            later.append(self._signal(DEADLINE, deadline_id(self.claim.unit), timedelta(0)))
        records["scheduled"] = [*records.get("scheduled", ()), *later]
        # The attempt of the deadline is remembered as long as the story.
        kept = KEPT + self.ports.terms.retention
        return Settlement(done=False, remember=kept.total_seconds(), counted=self.course, **records)

    def outdated(self) -> list[str]:
        """The ids in the schedule of the deadline, and of the end of an overdue story."""
        return [deadline_id(self.claim.unit), self._abandonment_id]

    @property
    def arrival(self) -> Arrival:
        """This event and its role. The story keeps the metadata of the event, and none of its data."""
        story, event = self.subscription, self.envelope
        return Arrival(
            part=story.role_of(event.type),
            name=event.type,
            text=packed(replace(event, data={})),
            needs={BEGIN: None, END: None},
            at_least=2,
            within=story.within.total_seconds(),
            may_be_repeated=self.redelivered,
        )

    def _course(self, arrived: Mapping[str, list[Envelope]]) -> Course:
        story = self.subscription
        began, ended = first_of(story.begins, arrived), first_of(story.ends, arrived)
        if began is None:
            return Course.UNBEGUN
        if ended is not None:
            return Course.IN_TIME if ended.time - began.time <= story.within else Course.LATE
        if self.is_part:
            return Course.IN_TIME  # an event has ended it that ends no story any more, by a new declaration
        return Course.ABANDONED if self.envelope.type == ABANDONED else Course.OVERDUE

    def _overdue(self, arrived: Mapping[str, list[Envelope]]) -> StoryOverdue:
        story = self.subscription
        began = first_of(story.begins, arrived)
        assert began is not None, "only a story that has begun is overdue"
        return StoryOverdue(
            story=story.title,
            key=self.key,
            since=began.time,
            arrived=[kind for kind in story.parts if kind in arrived],
            missing=[kind for kind in story.steps if kind not in arrived],
            ends=list(story.ends),
        )

    @property
    def _abandonment_id(self) -> str:
        return f"abandon:{self.claim.unit}"

    def _signal(self, kind: str, schedule_id: str, delay: timedelta) -> Scheduled:
        """A signal to this story, to be sent after this delay."""
        handler, ports = self.subscription.name, self.ports
        message = signal(
            kind,
            handler=handler,
            key=self.key,
            source=ports.service_name,
            queue=ports.queue_of(handler),
            now=ports.store.now(),
        )
        return Scheduled(schedule_id, message, delay.total_seconds())

    def _is_moot(self, result: ClaimResult) -> bool:
        if self.envelope.type == DEADLINE:
            return False
        return self.envelope.type != ABANDONED or not result.parts

    def _parts_once_more(self, result: ClaimResult) -> list[Scheduled]:  # noqa: ARG002
        """None: the deadline also ends a story that is complete by a new declaration only."""
        return []

    def _warn_of_missed(self, result: ClaimResult) -> None:
        """Nothing: events often come after the end of a story, and some come twice."""

    def _key_of(self, parts: Parts) -> str:
        """The idempotency key: the same for each attempt to announce that this story is overdue."""
        began = first_of(self.subscription.begins, by_type(parts.values()))
        return f"{self.idempotency_key}/{began.identity if began else ''}/{self.envelope.type}"

    def _commit(self, settlement: Settlement) -> str:
        late = super()._commit(settlement)
        if self.course is Course.OVERDUE and not late:
            logger.warning("%s", self._warning())
        return late

    def _warning(self) -> str:
        """Says that the story is overdue, and what it waits for."""
        story, arrived = self.subscription, by_type(self.parts.values())
        waits_for = [kind for kind in story.steps if kind not in arrived] or [" or ".join(story.ends)]
        return (
            f"{story.name} {one_line(self.key)} is overdue: it has not ended within {story.within}, and waits for "
            f"{', '.join(waits_for)}. `choreo stories show` tells more."
        )


def warn_of_keyless(story: Story, event: Envelope, error: EnvelopeError) -> None:
    """Log, once per type and process, that a story ignores events without a key."""
    if (story.name, event.type) not in _warned_keyless:
        _warned_keyless.add((story.name, event.type))
        logger.warning("%s, and ignores it (id %s). Logged once per type and process.", error, event.id)


#: The stories and types that `warn_of_keyless` has named.
_warned_keyless: set[tuple[str, str]] = set()
