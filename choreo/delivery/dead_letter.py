"""Dead letters: events whose handling failed for good. Each is kept whole until it is replayed or discarded."""

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
    #: The handler raised an error that is never retried: see `Retry.covers`.
    REFUSED = "refused"
    #: The delivery was not a readable event.
    UNREADABLE = "unreadable"
    #: It was begun more than `Terms.max_deliveries` times and never finished: it kills the worker that handles it.
    POISON = "poison"
    #: A join was not complete in time.
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """
    One event, or one join, whose handling failed for good.

    ``envelopes`` holds the event, or every part of a join that had arrived. It is empty if the delivery could not be
    read; ``message`` then holds it as it came, byte for byte. ``error`` is one line, ``traceback`` the handler's.
    ``attempts`` is the number of the last attempt. The store keeps a letter without a time limit, until it is replayed
    or discarded.
    """

    service: str
    handler: str
    reason: Reason
    error: str
    message: Message
    traceback: str = ""
    attempts: int = 0
    #: The unit that the store forgets when the letter is replayed; None if the delivery could not be read.
    unit: str | None = None
    envelopes: tuple[Envelope, ...] = ()
    failed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: str = field(default_factory=lambda: uuid4().hex[:10])

    @property
    def subject(self) -> str:
        """The subject of the first event; "" if there is none."""
        return self.envelopes[0].subject if self.envelopes else ""

    def __str__(self) -> str:
        what = " + ".join(envelope.type for envelope in self.envelopes) or "something unreadable"
        return f"{what} {self.subject}".rstrip()

    def to_json(self) -> str:
        """The letter as one JSON object: see `from_json`."""
        # Not dataclasses.asdict(): it copies the data of an event recursively, and that may be nested very deeply.
        record = {name.name: getattr(self, name.name) for name in fields(self)} | {
            "message": self.message.to_json(),
            "envelopes": [envelope.to_wire() for envelope in self.envelopes],
            "failed_at": self.failed_at.isoformat(),
        }
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str) -> "DeadLetter":
        """The letter that `to_json` wrote. Raises `ValueError` or `KeyError` for any other text."""
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
