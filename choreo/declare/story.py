"""Stories: an event begins something that is to end in time. Data only, made and checked when a module is imported."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from choreo.declare.join import By, Join, check_within, classes_read, keys_of
from choreo.declare.reaction import Reaction
from choreo.declare.retry import Retry
from choreo.declare.subscription import patterns_of
from choreo.declare.versions import described
from choreo.errors import DeclarationError
from choreo.events.alerts import StoryOverdue
from choreo.events.envelope import Envelope
from choreo.events.event import Event

#: The roles of the events of a story.
BEGIN, STEP, END = "begin", "step", "end"

#: One event class, or several.
Events = type[Event] | Sequence[type[Event]]


@dataclass(frozen=True, slots=True)
class Story(Join):
    """
    The expectation that an event is followed by one of several others in time, for each key.

    To the store it is a join that is complete with one event that begins the story and one that ends it, in any order
    of arrival. No function of the user runs for it. ``parts`` are all its events, ``within`` is the time to its
    deadline.
    """

    #: Types of the events that begin the story: one of them is enough.
    begins: tuple[str, ...] = ()
    #: Types of the events on the way, in the order in which people expect them. A story can end without them.
    steps: tuple[str, ...] = ()
    #: Types of the events that end the story: one of them is enough.
    ends: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name of the story, without that of its service."""
        return self.name.partition(".")[2]

    def role_of(self, event_type: str) -> str:
        """Return the role of the events of this type."""
        return BEGIN if event_type in self.begins else END if event_type in self.ends else STEP

    def is_complete(self, arrived: Mapping[str, Sequence[Envelope]]) -> bool:
        """Return True if the story has begun and ended."""
        return first_of(self.begins, arrived) is not None and first_of(self.ends, arrived) is not None

    def described(self) -> dict[str, Any]:
        """Return the story as JSON, in the form of a join. `choreo stories` reads it, without the service's code."""
        return {
            "story": {"begins": list(self.begins), "steps": list(self.steps), "ends": list(self.ends)},
            "parts": list(self.parts),
            "at_least": 2,
            "several": {},
            "keys": dict(self.keys),
            "versions": described(self.classes),
            "unless": [],
            "rounds": False,
            "within": self.within.total_seconds(),
            "on_timeout": False,
            "optional": [],
        }


def first_of(types: Collection[str], arrived: Mapping[str, Sequence[Envelope]]) -> Envelope | None:
    """Return the earliest event of these types; None if none has arrived. ``arrived``: type → events."""
    return min((event for kind in types for event in arrived.get(kind, ())), key=lambda event: event.time, default=None)


def make_story(
    service: str,
    name: str,
    *,
    begins: Events,
    steps: Events,
    ends: Events,
    within: timedelta,
    by: By,
    retry: Retry,
) -> Story:
    """Make a story from the arguments of ``app.story``. Raises `DeclarationError` when they do not fit together."""
    where = f"app.story({name!r})"
    roles = {"begins": _listed(begins), "steps": _listed(steps), "ends": _listed(ends)}
    _check_roles(where, roles)
    check_within(where, within)
    events = [event for role in roles.values() for event in role]
    keys = keys_of(where, by, events)
    return Story(
        service=service,
        name=f"{service}.{name}",
        patterns=patterns_of(events, where),
        reaction=_WATCHING,
        retry=retry,
        parts=patterns_of(events, where),
        within=within,
        keys=keys,
        classes=classes_read(events, keys),
        begins=patterns_of(roles["begins"], where),
        steps=patterns_of(roles["steps"], where),
        ends=patterns_of(roles["ends"], where),
    )


def follow() -> None:
    """Follow a story of this service: see `choreo.Service.story`."""


_WATCHING = Reaction(follow, (), (StoryOverdue,))


def _listed(events: object) -> list[Any]:
    if isinstance(events, Sequence) and not isinstance(events, str):
        return list(events)
    return [events]


def _check_roles(where: str, roles: Mapping[str, Sequence[object]]) -> None:
    for role, events in roles.items():
        for event in events:
            if not isinstance(event, type) or not issubclass(event, Event):
                raise DeclarationError(f"{where}: {role}={event!r} is no event class. Write {role}=[OrderPlaced].")
    for role, what in (("begins", "that begins the story"), ("ends", "that ends the story, also one of a failure")):
        if not roles[role]:
            raise DeclarationError(f"{where}: {role} is empty. Name each event {what}.")
