"""Evidence: all that is known of a subject, an event or a story, in the record and in the live state."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from choreo.cached import cached_property
from choreo.declare.description import HandlerDescription
from choreo.events.envelope import Envelope
from choreo.events.redaction import redacted
from choreo.observe.broker_look import BrokerLook
from choreo.observe.map import Map
from choreo.observe.open_end import Kind, OpenEnd
from choreo.operate.which import Group
from choreo.store.pauses import Pause
from choreo.store.presence import Presence, Program
from choreo.store.runs import Run


@dataclass(frozen=True)
class KnownEvent:
    """An event of a story, as far as it is known."""

    id: str
    type: str
    subject: str = ""
    story: str = ""
    #: The service that announced it; "" if that is not known.
    source: str = ""
    #: When it was announced, in seconds since 1970. None: unknown.
    at: float | None = None
    #: The event that caused it; None if none did, or it is not known.
    cause: str | None = None
    #: Its fields. None: they are not known any more.
    data: Mapping[str, Any] | None = None


def _is_nowhere(event_id: str) -> bool:  # noqa: ARG001
    """False: the event is kept nowhere."""
    return False


@dataclass(frozen=True)
class Evidence:
    """
    All that is known about ``what``.

    ``queue_of`` is a callback: it returns the name of a handler's queue.
    """

    what: str
    #: "subject", "event", "dead letter" or "story"; "" if nothing was found.
    read_as: str
    #: By the store's clock, in seconds since 1970.
    now: float
    #: The stories, newest first.
    stories: Sequence[str]
    runs: Sequence[Run]
    ends: Sequence[OpenEnd]
    map: Map
    presences: Mapping[str, Presence]
    broker: BrokerLook
    queue_of: Callable[[str], str]
    #: Handler → runs per second since what was found waits in its queue; 0.0 if that is not known.
    rates: Mapping[str, float] = field(default_factory=dict)
    #: Type → the handlers that were seen to announce it, of those that do not say what they announce.
    seen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: True if a record of runs is kept.
    is_recorded: bool = True
    #: What was not looked at, in words.
    notes: Sequence[str] = field(default_factory=tuple)
    #: The ids of the dead letters of these runs that do not exist any more: replayed or discarded.
    gone: Collection[str] = ()
    #: Callback: True if the event with this id is kept somewhere with its fields.
    is_kept: Callable[[str], bool] = _is_nowhere
    #: Handler → its pause.
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    #: Handler with a concurrency → how many of its slots are taken, for those that have an event in hand.
    slots: Mapping[str, int] = field(default_factory=dict)
    #: The groups of the dead letters that are there, by `Group.digest`.
    groups: Mapping[str, Group] = field(default_factory=dict)

    def of_story(self, story: str) -> "tuple[list[Run], list[OpenEnd]]":
        """The runs and the open ends of one story."""
        return [run for run in self.runs if run.story == story], [end for end in self.ends if story in end.stories]

    @cached_property
    def events(self) -> Mapping[str, KnownEvent]:
        """Every event that is known, by its id."""
        found: dict[str, KnownEvent] = {}
        for end in self.ends:
            for event in (one for one in end.events if one.id):
                found.setdefault(event.id, self._told(end, event))
        # The announcement is not recorded, but how long each run waited for it. The clocks differ: the earliest counts.
        for run in sorted(self.runs, key=lambda run: run.at - run.took - run.waited):
            at = run.at - run.took - run.waited
            found.setdefault(run.event, KnownEvent(run.event, run.type, run.subject, run.story, at=at))
            service = run.handler.partition(".")[0]
            for kind, event_id in run.announced:
                later = KnownEvent(event_id, kind, "", run.story, service, run.at, run.event)
                found[event_id] = _both(found.get(event_id), later)
            for kind, event_id in run.parts:
                found.setdefault(event_id, KnownEvent(event_id, kind, story=run.story))
        return found

    def _told(self, end: OpenEnd, event: Envelope) -> KnownEvent:
        """What an open end tells of an event. The dead letter of a declared story has no fields of it."""
        whole = known(event)
        is_bare = end.kind is Kind.LETTER and self.is_declared_story(end.handler)
        return replace(whole, data=None) if is_bare else whole

    @cached_property
    def descriptions(self) -> Mapping[str, HandlerDescription]:
        """The declarations of all handlers, by name."""
        return {handler.name: handler for handler in self.map.handlers}

    def is_declared_story(self, handler: str) -> bool:
        """True if this follows a story that a service has declared with ``app.story``."""
        description = self.descriptions.get(handler)
        return description is not None and description.kind == "story"

    def is_undo(self, handler: str) -> bool:
        """True if this undoes an effect, as a service has declared with ``undoes=``."""
        description = self.descriptions.get(handler)
        return description is not None and description.kind == "undo"

    def presence(self, handler: str) -> Presence:
        """The programs of the service of this handler."""
        return self.presences.get(handler.partition(".")[0], Presence())

    def consumers(self, handler: str) -> list[Program]:
        """The live workers that consume the queue of this handler."""
        queue = self.queue_of(handler)
        return [worker for worker in self.presence(handler).workers if queue in worker.queues]

    def runs_of(self, handler: str, event: str) -> list[Run]:
        """The attempts of this handler at this event, oldest first; and the runs of a join in which it took part."""
        return [
            run for run in self.runs if run.handler == handler and event in (run.event, *(id_ for _, id_ in run.parts))
        ]

    def ends_of(self, handler: str, event: str) -> list[OpenEnd]:
        """What is still to be done by this handler for this event."""
        return [end for end in self.ends if end.handler == handler and any(one.id == event for one in end.events)]

    def announcements_of(self, event: str) -> list[OpenEnd]:
        """The entry in a schedule that will announce this delayed event; empty for an event that is out."""
        return [end for end in self.ends if end.is_announcement and end.event.id == event]


def known(event: Envelope) -> KnownEvent:
    """What a whole event tells people."""
    at, data = event.time.timestamp() or None, redacted(event).data
    return KnownEvent(
        event.id, event.type, event.subject, event.correlation_id, event.source, at, event.causation_id, data
    )


def _both(whole: KnownEvent | None, told: KnownEvent) -> KnownEvent:
    """The event with what the run tells that announced it."""
    if whole is None:
        return told
    return KnownEvent(
        whole.id,
        whole.type,
        whole.subject,
        whole.story or told.story,
        whole.source or told.source,
        whole.at or told.at,
        whole.cause or told.cause,
        whole.data,
    )
