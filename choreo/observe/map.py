"""
The map of a platform: its events, who announces them, and who hears them.

It is made of descriptions (see `choreo.declare.description`), and needs no code of the services.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from choreo.declare.description import Fields, HandlerDescription, ServiceDescription, Versions
from choreo.events.naming import OWN_TYPES
from choreo.events.patterns import matches
from choreo.observe.likeness import alike
from choreo.store.pauses import Pause

#: The name under which `choreo publish` announces events. It is no service, and has no log.
COMMAND_LINE = "command_line"
#: The name under which the map shows who announces alerts. It is no service.
ITSELF = "choreo"
#: The alerts that any service may announce. No declaration says so, unlike that of a story.
_OF_ANY_SERVICE = OWN_TYPES - {"story.overdue"}


@dataclass(frozen=True)
class Announcer:
    """Somebody who announces events of a type."""

    #: The name of the handler, or of the service.
    name: str
    #: "" for a handler that returns it, "on_timeout" for a join at its deadline, "dead_letter" for the service's
    #: function for dead letters; outside of handlers "declared". "seen" if no declaration says so. "itself" for alerts,
    #: whose name is `ITSELF`.
    how: str = ""

    @property
    def service(self) -> str:
        """The name of the service."""
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Hearer:
    """A handler that hears events of a type."""

    #: The name of the handler.
    name: str
    #: The type or the pattern that it listens to.
    pattern: str
    #: "on" for a handler of single events, "join" for one that waits for others as well, "unless" if it is cancelled,
    #: "story" for a story that follows the event; "effect" for one that undoes the event's effect, "undo" if the event
    #: demands that.
    how: str = "on"
    #: The fields that it reads. None: any, or all of them.
    reads: Fields = None
    #: The versions of the event that it reads, the oldest first. (): any.
    versions: tuple[int, ...] = ()
    #: The fields that its code uses, as far as its source tells. None: any, or all of them.
    uses: Fields = None
    #: How its runs go together, for people: `HandlerDescription.pace`.
    pace: tuple[str, ...] = ()

    @property
    def service(self) -> str:
        """The name of the service."""
        return self.name.partition(".")[0]

    @property
    def is_wildcard(self) -> bool:
        """True if it hears the event by a pattern, and not by its type."""
        return is_wild(self.pattern)


@dataclass(frozen=True)
class MappedEvent:
    """One type of event on the map."""

    type: str
    announced_by: tuple[Announcer, ...] = ()
    heard_by: tuple[Hearer, ...] = ()
    #: A type that it is perhaps a misspelling of; "" if there is none.
    similar: str = ""
    #: How many of them reached no queue, and when the last one was announced: seconds since 1970.
    lost: int = 0
    lost_at: float = 0.0
    #: Its fields, by their names on the wire. None: no program has told its class.
    fields: Fields = None

    @property
    def by_name(self) -> list[Hearer]:
        """The handlers that listen to this very type. Not the stories that follow it: they only watch."""
        return [hearer for hearer in self.heard_by if not hearer.is_wildcard and hearer.how != "story"]

    @property
    def in_stories(self) -> list[Hearer]:
        """The stories that follow it."""
        return [hearer for hearer in self.heard_by if hearer.how == "story"]

    @property
    def is_unheard(self) -> bool:
        """True if no handler hears it."""
        return not self.heard_by

    @property
    def services(self) -> set[str]:
        """The services that announce or hear it."""
        return {one.service for one in self.announced_by} | {one.service for one in self.heard_by}


@dataclass(frozen=True)
class MappedService:
    """One service on the map."""

    name: str
    #: The number of its live workers. None: the map is made from code.
    workers: int | None = None
    #: The versions of its live workers' code, those that are known.
    versions: tuple[str, ...] = ()
    #: True if live workers declare different things under this name.
    is_divided: bool = False
    #: What each of them declares that the others do not, for people; "" if that is not known.
    division: str = ""
    #: The nodes on which its programs live, or were seen last.
    nodes: tuple[str, ...] = ()
    #: The time of the last sign of life, in seconds since 1970; 0: never.
    seen: float = 0.0
    #: The number of messages in its queues; None: not known.
    waiting: int | None = None
    #: True if it has handlers, so that it needs a worker.
    has_handlers: bool = True


@dataclass(frozen=True)
class IdleQueue:
    """A queue of a service with live workers, of which none consumes it."""

    queue: str
    #: The number of messages in it; None: the broker did not say.
    waiting: int | None = None
    #: True if no worker declares its handler any more.
    is_undeclared: bool = False


@dataclass(frozen=True)
class FieldReader:
    """A handler that reads a field of an event, or may read it."""

    name: str
    #: The type of the event; or the pattern, if it hears it by one.
    event: str
    #: False if it takes the whole event, so that nothing tells which fields it reads.
    is_certain: bool = True


@dataclass(frozen=True)
class UnreadField:
    """A field of an event that no handler is known to use."""

    #: The type of the event.
    event: str
    #: The name of the field on the wire.
    field: str
    #: The handlers that may use it: they take the whole event, and their source does not tell. (): none does.
    perhaps: tuple[str, ...] = ()

    @property
    def is_certain(self) -> bool:
        """True if no handler uses it: it could be left out of the event."""
        return not self.perhaps


@dataclass(frozen=True)
class Map:
    """The events of a platform, who announces them, and who hears them."""

    events: tuple[MappedEvent, ...]
    services: tuple[MappedService, ...]
    handlers: tuple[HandlerDescription, ...]
    #: The queues that no worker consumes, of services that have one.
    idle: tuple[IdleQueue, ...] = ()
    #: What could not be read, in words.
    faults: tuple[str, ...] = ()
    #: The pauses of its handlers.
    paused: tuple[Pause, ...] = ()

    @property
    def wildcards(self) -> list[HandlerDescription]:
        """The handlers that listen to a pattern."""
        return [handler for handler in self.handlers if any(map(is_wild, handler.hears))]

    @property
    def unsaid(self) -> list[str]:
        """The handlers that do not say what they announce: they have no return annotation."""
        return [handler.name for handler in self.handlers if None in (handler.announces, handler.on_timeout)]

    @property
    def names(self) -> set[str]:
        """All services, handlers and types."""
        services, handlers = {one.name for one in self.services}, {one.name for one in self.handlers}
        return services | handlers | {event.type for event in self.events}

    def hears_wildly(self, event_type: str) -> bool:
        """True if a handler hears this type by a pattern, whether or not the type is on the map."""
        patterns = (pattern for handler in self.handlers for pattern in handler.hears if is_wild(pattern))
        return any(matches(pattern, event_type) for pattern in patterns)

    def event(self, event_type: str) -> MappedEvent | None:
        """The event of this type; None if there is none."""
        return next((event for event in self.events if event.type == event_type), None)

    def about(self, *names: str) -> "Map":
        """The part of the map that concerns these services, handlers or types."""
        if not names:
            return self
        wanted = set(names)
        events = [event for event in self.events if wanted & _names_of(event)]
        services = set().union(*(event.services for event in events)) | wanted
        return replace(
            self,
            events=tuple(events),
            services=tuple(service for service in self.services if service.name in services),
            handlers=tuple(handler for handler in self.handlers if handler.service in services),
            idle=tuple(idle for idle in self.idle if any(f"{name}." in f"{idle.queue}." for name in wanted)),
            paused=tuple(
                pause
                for pause in self.paused
                if any(f"{pause.handler}.".startswith(f"{one}.") for one in services | wanted)
            ),
        )

    def readers(self, name: str) -> list[FieldReader]:
        """The handlers that read this field of any event, and those that may."""
        found = [
            FieldReader(hearer.name, hearer.pattern, hearer.reads is not None)
            for event in self.events
            for hearer in event.heard_by
            if hearer.how != "unless" and (hearer.reads is None or name in hearer.reads)
        ]
        return list(dict.fromkeys(found))

    def unread(self) -> list[UnreadField]:
        """The fields of events that no handler is known to use. Not those of events that no handler hears."""
        found = []
        for event in self.events:
            hearers = [hearer for hearer in event.heard_by if hearer.how != "story"]
            used = {name for hearer in event.heard_by for name in hearer.uses or ()}
            untold = tuple(hearer.name for hearer in hearers if hearer.uses is None)
            if hearers and event.fields is not None:
                found += [UnreadField(event.type, name, untold) for name in event.fields if name not in used]
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "events": [asdict(event) for event in self.events],
            "services": [asdict(service) for service in self.services],
            "handlers": [handler.to_dict() for handler in self.handlers],
            "queues_nobody_consumes": [asdict(idle) for idle in self.idle],
            "faults": list(self.faults),
            "paused": [pause.to_dict() for pause in self.paused],
        }


def called(name: str) -> str:
    """A handler, or a program that announces, for people."""
    return {COMMAND_LINE: "the command choreo publish", ITSELF: "choreo itself"}.get(name, name)


def is_wild(pattern: str) -> bool:
    """True for a pattern that is no event type."""
    return bool({"*", "#"} & set(pattern.split(".")))


def drawn(
    descriptions: Iterable[ServiceDescription],
    *,
    seen: Mapping[str, Iterable[str]] | None = None,
    lost: Mapping[str, tuple[int, float]] | None = None,
    types: Iterable[str] = (),
    services: Iterable[MappedService] = (),
    idle: Iterable[IdleQueue] = (),
    faults: Iterable[str] = (),
    paused: Iterable[Pause] = (),
) -> Map:
    """
    Draw the map of these descriptions. Several may be of one service.

    ``seen`` maps services to the types that they were seen to announce. ``lost`` maps types to the
    number of their events that reached no queue, and to the time of the last one. ``types`` are further types that
    exist. ``services`` are what else is known of them.
    """
    descriptions = list(descriptions)
    handlers = tuple(_once(handler for described in descriptions for handler in described.handlers))
    announcers = {kind: [Announcer(ITSELF, "itself")] for kind in _OF_ANY_SERVICE}
    announcers |= _announcers(descriptions, seen or {})
    exact = {pattern for handler in handlers for pattern in handler.hears if not is_wild(pattern)}
    lost = lost or {}
    found = sorted({*announcers, *exact, *types, *lost} - (_OF_ANY_SERVICE - exact))
    fields = _fields(descriptions)
    events = [
        MappedEvent(
            kind,
            tuple(announcers.get(kind, ())),
            _hearers(kind, handlers),
            "",
            *lost.get(kind, (0, 0.0)),
            fields=fields.get(kind),
        )
        for kind in found
    ]
    known = {service.name: service for service in services}
    for described in descriptions:
        known.setdefault(described.service, MappedService(described.service, has_handlers=bool(described.handlers)))
    return Map(
        tuple(_compared(events)),
        tuple(known[name] for name in sorted(known)),
        tuple(sorted(handlers, key=lambda handler: handler.name)),
        tuple(idle),
        tuple(faults),
        tuple(paused),
    )


def _once(handlers: Iterable[HandlerDescription]) -> Iterable[HandlerDescription]:
    """Each handler once. What two versions of one declare is put together: during a deployment both of them run."""
    found: dict[str, HandlerDescription] = {}
    for handler in handlers:
        other = found.get(handler.name)
        found[handler.name] = handler if other is None else _both(other, handler)
    return found.values()


def _both(one: HandlerDescription, other: HandlerDescription) -> HandlerDescription:
    """``one``, with what only ``other`` hears and announces."""
    reads = {
        topic: _union(one.reads.get(topic, ()), other.reads.get(topic, ())) for topic in {**one.reads, **other.reads}
    }
    return replace(
        one,
        hears=tuple(dict.fromkeys([*one.hears, *other.hears])),
        announces=_union(one.announces, other.announces),
        on_timeout=_union(one.on_timeout, other.on_timeout),
        reads=reads,
        versions=_read_by_both(one.versions, other.versions),
        uses={topic: _union(_used(one, topic), _used(other, topic)) for topic in {**reads, **one.uses, **other.uses}},
    )


def _used(handler: HandlerDescription, topic: str) -> Fields:
    """What a handler uses of a type. One of an older choreo does not say it: what it reads."""
    return handler.uses.get(topic, handler.reads.get(topic, ()))


def _fields(descriptions: Iterable[ServiceDescription]) -> dict[str, tuple[str, ...]]:
    """Type → the fields of its classes, in the versions that programs know."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for described in descriptions:
        for model in described.models or ():
            if model.event and "properties" in model.written:
                found[model.event] |= dict.fromkeys(model.written["properties"])
    return {kind: tuple(fields) for kind, fields in found.items()}


def _read_by_both(one: Versions, other: Versions) -> Versions:
    """Type → the versions that both read: an event of another one may come to the one that cannot."""
    either = {**one, **other}
    return {kind: tuple(n for n in versions if n in one.get(kind, versions)) for kind, versions in either.items()}


def _union(one: Fields, other: Fields) -> Fields:
    return None if one is None or other is None else tuple(dict.fromkeys([*one, *other]))


def _announcers(
    descriptions: Sequence[ServiceDescription], seen: Mapping[str, Iterable[str]]
) -> dict[str, list[Announcer]]:
    found: dict[str, dict[Announcer, None]] = defaultdict(dict)
    for described in descriptions:
        for name, how, types in described.announcers():
            for kind in types or ():
                found[kind][Announcer(name, how)] = None
    for service, noted in seen.items():
        for kind in noted:
            # Its declarations say so already.
            if all(known.service != service for known in found[kind]):
                found[kind][Announcer(service, "seen")] = None
    return {kind: sorted(announcers, key=lambda one: (one.name, one.how)) for kind, announcers in found.items()}


def _hearers(kind: str, handlers: Iterable[HandlerDescription]) -> tuple[Hearer, ...]:
    found = []
    for handler in handlers:
        # Its own type before a pattern that matches it, too: the queue gets the event once.
        patterns = sorted((pattern for pattern in handler.hears if matches(pattern, kind)), key=lambda one: one != kind)
        if patterns:
            pattern = patterns[0]
            how = "unless" if kind in handler.unless else handler.kind
            if handler.undoes is not None and kind in handler.undoes.effects:
                how = "effect"
            reads = handler.reads.get(pattern, None if how == "on" else ())
            keys, versions = handler.keys_of(kind), handler.versions.get(pattern, ())
            uses = _union(handler.uses.get(pattern, reads), keys)
            found.append(Hearer(handler.name, pattern, how, _union(reads, keys), versions, uses, handler.pace))
    return tuple(sorted(found, key=lambda hearer: hearer.name))


def _compared(events: Sequence[MappedEvent]) -> Iterable[MappedEvent]:
    """The events with the type that each is perhaps a misspelling of: one side has it, and the other has not."""
    heard = [event.type for event in events if event.by_name]
    announced = [event.type for event in events if event.announced_by]
    for event in events:
        others: list[str] = []
        if not event.by_name:
            others = heard
        elif not event.announced_by:
            others = announced
        yield replace(event, similar=alike(event.type, [other for other in others if other != event.type]))


def _names_of(event: MappedEvent) -> set[str]:
    handlers = {one.name for one in event.announced_by} | {one.name for one in event.heard_by}
    return {event.type, *event.services, *handlers}
