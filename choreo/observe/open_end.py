"""Open ends: what is still to be done for an event, and where it waits."""

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from choreo.broker.queued import Queued
from choreo.delivery.dead_letter import DeadLetter
from choreo.events.envelope import Envelope
from choreo.observe.words import clock, ordinal, span
from choreo.operate.joins import PendingJoin
from choreo.store.parts import is_demanded, read_demand
from choreo.store.schedule import DELAYED
from choreo.store.search import KeptUnit


class Kind(StrEnum):
    """Where an event waits."""

    QUEUED = "queued"
    #: A worker has it.
    TAKEN = "taken"
    #: The next attempt is scheduled.
    RETRY = "retry"
    #: It failed while the breaker was open, and waits until that closes.
    HELD = "held"
    #: It waits until another event of its key is handled (``sequential_by``).
    TURN = "turn"
    #: It is scheduled, and is announced, or delivered to one handler, at its time.
    LATER = "later"
    #: A join waits for other events.
    JOIN = "join"
    LETTER = "dead letter"


@dataclass(frozen=True)
class OpenEnd:
    """One thing that is still to be done."""

    kind: Kind
    #: The handler; `DELAYED` for an event that was delayed outside of handlers.
    handler: str
    #: The event. For a join: the part that came last.
    event: Envelope
    #: The attempt that is next, or that is made now; from 1.
    attempt: int = 1
    #: When it falls due, in seconds since 1970: the time of a retry or a delayed event, the deadline of a join.
    due: float | None = None
    #: True for an event that every handler will hear. False: this handler alone gets it.
    is_announcement: bool = False
    message: Queued | None = None
    unit: KeptUnit | None = None
    letter: DeadLetter | None = None
    join: PendingJoin | None = None
    #: The event that is handled first, for people: ``event 3fa4… of ORD-1``.
    behind: str = ""

    @property
    def service(self) -> str:
        """The service of the handler; "" for an event that was delayed outside of handlers."""
        return "" if self.handler == DELAYED else self.handler.partition(".")[0]

    @property
    def events(self) -> list[Envelope]:
        """The event, or all parts of a join that are there."""
        if self.join is not None and self.join.arrived:
            return [part.envelope for part in self.join.arrived]
        if self.letter is not None and self.letter.envelopes:
            return list(self.letter.envelopes)
        return [self.event]

    def words(self, now: float) -> str:
        """Where it waits, in a few words. ``now`` is in seconds since 1970."""
        again = f"attempt {self.attempt}, " if self.attempt > 1 else ""
        match self.kind:
            case Kind.QUEUED if self.message is not None:
                came = f", came back {self.message.returned}x" if self.message.returned else ""
                return f"{again}{ordinal(self.message.position)} of {self.message.count} in its queue{came}"
            case Kind.TAKEN:
                begun = f", begun {self.unit.begun}x" if self.unit is not None and self.unit.begun > 1 else ""
                return f"{again}in the hands of a worker{begun}"
            case Kind.RETRY | Kind.LATER:
                return self._when(now)
            case Kind.HELD:
                return f"attempt {self.attempt}, held by the breaker"
            case Kind.TURN:
                return f"waits for its turn behind {self.behind or 'another event'}"
            case Kind.LETTER if self.letter is not None:
                return f"DEAD LETTER {self.letter.id}: {self.letter.error}"
            case Kind.JOIN if self.join is not None:
                here, needed = len(self.join.arrived), self.join.needed
                return f"waits: {here} of {here + needed} events" if needed else "has all its events"
            case _:
                return str(self.kind)

    def due_words(self, now: float) -> str:
        """When it falls due, or did: ``due in 17 s``. ``now`` is in seconds since 1970."""
        due = self.due or 0.0
        return f"due in {span(due - now)}" if due > now else f"due since {clock(due, now)}"

    def _when(self, now: float) -> str:
        what, due = f"attempt {self.attempt}" if self.kind is Kind.RETRY else "to be sent", self.due or 0.0
        return f"{what} in {span(due - now)}" if due > now else f"{what}, {self.due_words(now)}"

    @property
    def stories(self) -> set[str]:
        """The stories that it belongs to. What undoes an effect also belongs to the story of the failure."""
        failures = [_failure_in(event) for event in self.events if is_demanded(event)]
        return {event.correlation_id for event in (*self.events, *failures) if event is not None}


def _failure_in(effect: Envelope) -> Envelope | None:
    """The event that demands that this effect is undone; None if an operator does, or it cannot be read."""
    with suppress(ValueError):
        return read_demand(effect)[1]
    return None
