"""The log of a stage: the events that were announced, and the deliveries that were made."""

from dataclasses import dataclass, field
from datetime import datetime

from choreo.cached import cached_property
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.testing.queues import event_in


@dataclass(frozen=True)
class Announced:
    """One event that was announced on the stage."""

    message: Message
    #: The handler that announced it; "" for the test itself.
    by: str
    #: The event that this handler had in hand, if there is one.
    in_hand: Envelope | None
    #: The time at which it was announced.
    at: datetime

    @cached_property
    def event(self) -> Envelope:
        """The event."""
        return event_in(self.message)

    @property
    def cause(self) -> str | None:
        """The id of the event that led to this one; None for the first event of a story."""
        return self.in_hand.id if self.in_hand else self.event.causation_id


@dataclass(frozen=True, slots=True)
class Delivered:
    """One delivery that was made on the stage."""

    #: The handler, or the queue of a service's notices: "payment.dead_letters".
    handler: str
    #: The event; of a notice, the event that became a dead letter, if it could be read.
    event: Envelope | None
    #: The attempt that this delivery was, from 1.
    attempt: int
    #: The outcome in words, as a worker logs it.
    outcome: str
    #: The error of the handler, or of the listener; None if there was none.
    error: Exception | None
    #: The time by the clock of the stage.
    at: datetime

    def __str__(self) -> str:
        return f"{self.handler}({self.event or ''})"


@dataclass
class Log:
    """Everything that happened on a stage, the oldest first."""

    announced: list[Announced] = field(default_factory=list)
    deliveries: list[Delivered] = field(default_factory=list)
