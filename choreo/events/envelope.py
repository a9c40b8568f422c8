"""The form in which an event travels: a CloudEvents 1.0 envelope.

``id source type subject time datacontenttype data`` are attributes of the specification
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md). ``correlationid``, ``causationid`` and
``dataversion`` are extension attributes, and so is ``choreoreplay``, which only a replayed event has. All others are
kept with the event. Events that it causes inherit the metadata among them: see `choreo.events.metadata`.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from choreo.errors import EnvelopeError
from choreo.events.ids import identity
from choreo.events.ready import Ready
from choreo.printing import one_line

_KNOWN = frozenset(
    "specversion id source type subject time datacontenttype data correlationid causationid dataversion".split()
)

#: The attributes that tell what an event is. No other metadata can have one of these names.
CONTEXT = _KNOWN | {"dataschema"}

#: The name of `Envelope.replay` on the wire.
REPLAY = "choreoreplay"


@dataclass(frozen=True, slots=True)
class Envelope(Ready):
    """An announced event with its metadata. Immutable."""

    #: The id of this event. Copies, redeliveries and replays of the event keep it. Two sources may use the same id.
    id: str
    #: The event type, such as ``order.placed``.
    type: str
    #: The name of the service that announced the event.
    source: str
    #: The thing that the event is about, such as ``ORD-1``. '' if it has none.
    subject: str
    #: When the event was announced, or, for a delayed event, when it is due. Has a time zone.
    time: datetime
    #: The same for all events of one story: the id of its first event.
    correlation_id: str
    #: The id of the event that directly caused this one. None for the first event of a story.
    causation_id: str | None = None
    #: The version of the event's fields, from 1.
    version: int = 1
    #: The fields of the event, as JSON values.
    data: dict[str, Any] = field(default_factory=dict)
    #: All other attributes: the metadata that was given at `choreo.Service.publish` or inherited (``tenant``), the
    #: trace that the event was made in (``traceparent``), and attributes of other programs.
    extensions: dict[str, Any] = field(default_factory=dict)
    #: The id of the dead letter if the event was replayed, else ''. It is still the same event.
    replay: str = field(default="", compare=False)

    def __str__(self) -> str:
        return one_line(f"{self.type} {self.subject}".rstrip())

    def __hash__(self) -> int:
        # The data may be of any kind. Equal envelopes have equal ids. asyncio.gather hashes what it awaits.
        return hash(self.id)

    @property
    def identity(self) -> str:
        """The same for two envelopes only if they are the same event: the id if it is a UUID, else source and id."""
        return identity(self.source, self.id)

    @property
    def occasion(self) -> str:
        """
        The `identity`, and another one for each replay of the event as a dead letter. The ids of tasks derive from it.

        The task id of a run may be revoked, which is no reason to revoke the run of a replay.
        """
        return f"{self.identity}/{self.replay}" if self.replay else self.identity

    def replayed(self, letter_id: str) -> "Envelope":
        """The envelope as a replay of this dead letter sends it."""
        return replace(self, replay=letter_id)

    def to_wire(self) -> dict[str, Any]:
        """Return the envelope as a CloudEvents JSON object. `from_wire` reads it back."""
        wire: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": self.time.isoformat(),
            "datacontenttype": "application/json",
            "correlationid": self.correlation_id,
            "dataversion": self.version,
            "data": self.data,
        }
        if self.causation_id is not None:
            wire["causationid"] = self.causation_id
        if self.replay:
            wire[REPLAY] = self.replay
        return {**self.extensions, **wire} if self.extensions else wire

    @classmethod
    def from_wire(cls, wire: object) -> "Envelope":
        """Read an envelope. Raises `EnvelopeError`, which names the faulty attribute."""
        if not isinstance(wire, dict):
            raise EnvelopeError(f"an envelope is a JSON object, not {type(wire).__name__}")
        event_id = _text(wire, "id")
        causation = wire.get("causationid")
        if causation is not None and not isinstance(causation, str):
            raise EnvelopeError(f"causationid is {causation!r}, not a text")
        version = wire.get("dataversion", 1)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise EnvelopeError(f"dataversion is {version!r}, not a number from 1")
        data = wire.get("data", {})
        if not isinstance(data, dict):
            raise EnvelopeError(f"data is {type(data).__name__}, not a JSON object")
        is_plain = _KNOWN.issuperset(wire)
        extensions = {} if is_plain else {key: value for key, value in wire.items() if key not in _KNOWN}
        return cls(
            id=event_id,
            type=_text(wire, "type"),
            source=_text(wire, "source"),
            subject=_text(wire, "subject", ""),
            time=_time(wire),
            correlation_id=_text(wire, "correlationid", event_id),
            causation_id=causation,
            version=version,
            data=data,
            replay=str(extensions.pop(REPLAY, "")) if extensions else "",
            extensions=extensions,
        )


def _text(wire: dict[str, Any], name: str, default: str | None = None) -> str:
    value = wire.get(name, default)
    if not isinstance(value, str) or (default is None and not value):
        raise EnvelopeError(f"{name} is {value!r}, not a text")
    return value


def _time(wire: dict[str, Any]) -> datetime:
    value = wire.get("time")
    try:
        time = datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise EnvelopeError(f"time is {value!r}, not a timestamp") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
