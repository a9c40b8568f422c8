"""The form in which an event travels: a CloudEvents 1.0 envelope.

``id source type subject time datacontenttype data`` are attributes of the specification
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md). ``correlationid``, ``causationid``,
``dataversion`` and ``hops`` are extension attributes, and so is ``choreoreplay``, which only a replayed event has. All
others are kept with the event. Events that it causes inherit the metadata among them: see `choreo.events.metadata`.

Events of other programs may have another form: see `choreo.events.cloud_events`.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from choreo.errors import EnvelopeError
from choreo.events.cloud_events import JSON, SPEC_VERSION, are_attributes, conformed, moment_of
from choreo.events.drafts import draft_of
from choreo.events.ids import identity
from choreo.events.ready import Ready
from choreo.printing import one_line

_KNOWN = frozenset(
    "specversion id source type subject time datacontenttype data correlationid causationid dataversion hops".split()
)

#: The attributes that tell what an event is. No other metadata can have one of these names.
CONTEXT = _KNOWN | {"dataschema"}

#: The name of `Envelope.replay` on the wire.
REPLAY = "choreoreplay"

#: Attribute of an event that older code can read: the oldest version whose code can. See `choreo.Event`.
READABLE_BY = "choreoreadableby"

#: Attribute of an event of another program that is heard under a type of choreo's: the type that it was sent with.
FOREIGN_TYPE = "choreoforeigntype"

#: Attribute of an event that is handled again as if for the first time. Its value becomes part of the idempotency key.
NEW_KEY = "choreonewkey"


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
    #: When the event was announced, or, for a delayed event, when it is due. Has a time zone. For an event of another
    #: program that tells no time: when choreo read it.
    time: datetime
    #: The same for all events of one story: the id of its first event.
    correlation_id: str
    #: The id of the event that directly caused this one. None for the first event of a story.
    causation_id: str | None = None
    #: The version of the event's fields, from 1.
    version: int = 1
    #: How many events caused this one, one after the other: 0 for the first event of a story. A join counts from the
    #: part with the most. A replay starts counting again.
    hops: int = field(default=0, compare=False)
    #: The fields of the event, as JSON values.
    data: dict[str, Any] = field(default_factory=dict)
    #: All other attributes: the metadata that was given at `choreo.Service.publish` or inherited (``tenant``), the
    #: trace that the event was made in (``traceparent``), and attributes of other programs (``dataschema``).
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

    @property
    def foreign_type(self) -> str:
        """The type that another program sent the event with; '' if that is `type`. See ``Event``'s ``foreign``."""
        return str(self.extensions.get(FOREIGN_TYPE, ""))

    def heard_as(self, event_type: str) -> "Envelope":
        """The envelope of an event of another program, under a type of choreo's. `foreign_type` keeps its own."""
        return replace(self, type=event_type, extensions={**self.extensions, FOREIGN_TYPE: self.type})

    def replayed(self, letter_id: str) -> "Envelope":
        """The envelope as a replay of this dead letter sends it. Its hops are counted from 0 again."""
        return replace(self, replay=letter_id, hops=0)

    def to_wire(self) -> dict[str, Any]:
        """Return the envelope as a CloudEvents JSON object. `from_wire` reads it back."""
        wire: dict[str, Any] = {
            "specversion": SPEC_VERSION,
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": self.time.isoformat(),
            "datacontenttype": JSON,
            "correlationid": self.correlation_id,
            "dataversion": self.version,
            "data": self.data,
        }
        if not self.subject:
            del wire["subject"]  # an attribute of CloudEvents is not empty
        if self.causation_id is not None:
            wire["causationid"] = self.causation_id
        if self.hops:
            wire["hops"] = self.hops
        if self.replay:
            wire[REPLAY] = self.replay
        for name, value in self.extensions.items():
            # Behind the others: the broker's scripts look for the id at the beginning.
            wire.setdefault(name, value)
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> "Envelope":
        """
        Read a CloudEvents JSON object of any program.

        An event without data has no fields. Raises `EnvelopeError`, which names the faulty attribute.
        """
        if not isinstance(wire, dict):
            raise EnvelopeError(f"an envelope is a JSON object, not {type(wire).__name__}")
        get = wire.get
        event_id, kind, source, subject = get("id"), get("type"), get("source"), get("subject", "")
        story, causation, version = get("correlationid", event_id), get("causationid"), get("dataversion", 1)
        data, hops = get("data", {}), get("hops", 0)
        if not (
            type(event_id) is type(kind) is type(source) is type(subject) is type(story) is str
            and (causation is None or type(causation) is str)
            and type(version) is int
            and type(data) is dict
            and event_id
            and kind
            and source
            and story
            and version > 0
            and get("specversion") == SPEC_VERSION
            and get("datacontenttype") == JSON
        ):
            return cls.from_wire(conformed(wire))
        made = EnvelopeDraft()
        made.id, made.type, made.source, made.subject = event_id, kind, source, subject
        made.time = _time(wire)
        made.correlation_id, made.causation_id = story, causation
        made.version, made.data = version, data
        # Another program may mean something else by it.
        made.hops = hops if type(hops) is int and hops > 0 else 0
        made.extensions, made.replay = {}, ""
        if not _KNOWN.issuperset(wire):
            made.extensions = {key: value for key, value in wire.items() if key not in _KNOWN}
            made.replay = str(made.extensions.pop(REPLAY, ""))
            if not are_attributes(made.extensions):
                return cls.from_wire(conformed(wire))
        made.__class__ = cls
        return made  # type: ignore[no-any-return]


#: See `choreo.events.drafts`.
EnvelopeDraft: Any = draft_of(Envelope)


def _time(wire: dict[str, Any]) -> datetime:
    value = wire.get("time")
    try:
        time = datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        time = moment_of(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
