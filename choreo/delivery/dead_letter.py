"""Dead letters: events whose handling failed for good. The store keeps them until they are replayed or discarded."""

import json
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

from choreo.delivery.cause import Cause, group_of, read_cause
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.events.redaction import REDACTED, redacted, redacted_message
from choreo.events.signing import SEAL, SIGNATURE
from choreo.printing import one_line
from choreo.store.letters import Card
from choreo.store.parts import DEMAND, is_demanded

#: Attributes of an event that tell people nothing as they are.
UNSAID = frozenset({REDACTED, SIGNATURE, SEAL, DEMAND})


class Reason(StrEnum):
    """Why an event became a dead letter."""

    #: Every attempt failed with an error that is retried.
    EXHAUSTED = "exhausted"
    #: An attempt failed with an error that is not retried.
    REFUSED = "refused"
    #: The message holds no event, or an event that the handler cannot read: its data does not fit, or a key is missing.
    UNREADABLE = "unreadable"
    #: The event has a version that the handler cannot read: a newer one, or one that no upcaster takes.
    VERSION = "version"
    #: Too many attempts began and never finished: the event kills its worker. See `Terms.max_deliveries`.
    POISON = "poison"
    #: A join without ``on_timeout`` passed its deadline.
    EXPIRED = "expired"
    #: No worker declares the handler any more: a retry, or the deadline of a join, would go to a queue that none reads.
    UNDECLARED = "undeclared"
    #: The broker refused a retry, a delayed event or another message of the schedule, again and again.
    UNSENT = "unsent"
    #: An operator revoked the run, or ended it with a signal: see docs/deployment.md.
    REVOKED = "revoked"
    #: An operator dropped its next attempt: see docs/operations.md.
    DROPPED = "dropped"
    #: The handler announced an event to which more than ``choreo_max_hops`` events have led: services answer each other
    #: without an end.
    LOOP = "loop"
    #: It is not signed, or was changed, or its publisher may not announce it: see docs/security.md.
    UNTRUSTED = "untrusted"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event whose handling failed for good, with its error. The store keeps it until it is replayed or discarded."""

    #: The name of the service.
    service: str
    #: The name of the handler that failed. For a message of another queue: the service, or `<service>.dead_letters`.
    handler: str
    #: Why the event became a dead letter.
    reason: Reason
    #: The error of the last attempt, as text.
    error: str
    #: A message with the event, to the queue of the handler. If no event could be read: the received message, byte for
    #: byte.
    message: Message
    #: The traceback of the last attempt. '' if there is none.
    traceback: str = ""
    #: The number of attempts that were made.
    attempts: int = 0
    #: The unit that a replay resets, so that it can run again: see `choreo.store`. None if there is none.
    unit: str | None = None
    #: The event, or all parts of a join that had arrived. Empty if the message held no readable event.
    envelopes: tuple[Envelope, ...] = ()
    #: The time of the failure, in UTC.
    failed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: The id of the dead letter: ten hexadecimal digits.
    id: str = field(default_factory=lambda: uuid4().hex[:10])

    @property
    def subject(self) -> str:
        """The subject of the event, or of the first part of a join. '' if there is none."""
        return self.envelopes[0].subject if self.envelopes else ""

    @property
    def undoes(self) -> str:
        """The type of the event whose effect stands, since undoing it has failed. '' for every other letter."""
        return self.envelopes[0].type if self.envelopes and is_demanded(self.envelopes[0]) else ""

    @property
    def cause(self) -> Cause:
        """Why the handler failed."""
        return read_cause(self.error, self.traceback)

    @property
    def group(self) -> str:
        """The group of letters that have the same handler, reason and kind of cause: 16 hexadecimal digits."""
        return group_of(self.handler, self.reason, self.cause)

    @property
    def card(self) -> Card:
        """The entry of the letter in the store's index. It is made once, when the letter is recorded."""
        cause, subjects = self.cause, [envelope.subject for envelope in self.envelopes]
        return Card.of(group_of(self.handler, self.reason, cause), cause.to_json(self.reason), subjects)

    def __str__(self) -> str:
        unknown = "a message" if self.reason is Reason.UNSENT else "something unreadable"
        what = " + ".join(envelope.type for envelope in self.envelopes) or unknown
        return one_line(f"{what} {self.subject}".rstrip())

    @property
    def redacted(self) -> "DeadLetter":
        """The letter as people see it: without the values of redacted fields. See docs/security.md."""
        return replace(self, envelopes=tuple(map(redacted, self.envelopes)), message=redacted_message(self.message))

    def to_json(self) -> str:
        """Return the dead letter as one JSON object."""
        # Not dataclasses.asdict(): it recurses into the data of an event, which may be nested too deeply for that.
        record = {name.name: getattr(self, name.name) for name in fields(self)} | {
            "message": self.message.to_json(),
            "envelopes": [envelope.to_wire() for envelope in self.envelopes],
            "failed_at": self.failed_at.isoformat(),
        }
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str) -> "DeadLetter":
        """Read a dead letter that `to_json` wrote."""
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
