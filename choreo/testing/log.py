"""The log of a stage: the events that were announced, and the deliveries that were made."""

from dataclasses import dataclass, field
from datetime import datetime

from choreo.events.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Announced:
    """One event that was announced on the stage."""

    event: Envelope
    #: The handler that announced it; "" for the test itself.
    by: str
    #: The id of the event that this handler had in hand; None for the first event of a story.
    cause: str | None
    #: The time at which it was announced.
    at: datetime


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
