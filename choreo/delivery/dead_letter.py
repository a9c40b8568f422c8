"""Dead letters: events whose handling failed for good, kept whole until somebody decides."""

import json
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

from choreo.events.envelope import Envelope
from choreo.events.message import Message


class Reason(StrEnum):
    """Why an event became a dead letter."""

    #: Every attempt failed.
    EXHAUSTED = "exhausted"
    #: The error is one that is never retried.
    REFUSED = "refused"
    #: The delivery was not a readable event.
    UNREADABLE = "unreadable"
    #: It was begun too often without an end: it kills the worker that handles it.
    POISON = "poison"
    #: A join was not complete in time.
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """
    What failed, where, why and how often.

    ``envelopes`` holds the event, or every part of a join that had arrived; it is empty when the delivery could not
    be read, and then ``message`` holds what came, byte for byte.
    """

    service: str
    handler: str
    reason: Reason
    error: str
    message: Message
    traceback: str = ""
    attempts: int = 0
    #: What is forgotten when the letter is replayed: see `choreo.store`.
    unit: str | None = None
    envelopes: tuple[Envelope, ...] = ()
    failed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: str = field(default_factory=lambda: uuid4().hex[:10])

    @property
    def subject(self) -> str:
        return self.envelopes[0].subject if self.envelopes else ""

    def __str__(self) -> str:
        what = " + ".join(envelope.type for envelope in self.envelopes) or "something unreadable"
        return f"{what} {self.subject}".rstrip()

    def to_json(self) -> str:
        # Not dataclasses.asdict(): it follows the data of an event down, and there may be no end to that.
        record = {name.name: getattr(self, name.name) for name in fields(self)} | {
            "message": self.message.to_json(),
            "envelopes": [envelope.to_wire() for envelope in self.envelopes],
            "failed_at": self.failed_at.isoformat(),
        }
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str) -> "DeadLetter":
        record: dict[str, Any] = json.loads(text)
        return cls(
            **record
            | {
                "reason": Reason(record["reason"]),
                "message": Message.from_json(record["message"]),
                "envelopes": tuple(Envelope.from_wire(wire) for wire in record["envelopes"]),
                "failed_at": datetime.fromisoformat(record["failed_at"]),
            }
        )
