"""What is checked: the declarations of several services, their events, and the map of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from choreo.cached import cached_property
from choreo.check.code import NOWHERE, Code, File, Spot
from choreo.check.settings import Settings
from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.declare.join import Join
from choreo.declare.story import Story
from choreo.declare.subscription import Subscription
from choreo.events.alerts import Alert
from choreo.events.event import Event
from choreo.events.patterns import matches
from choreo.observe.map import Map, drawn
from choreo.service import Service


@dataclass(frozen=True)
class Platform:
    """The services that are checked together."""

    apps: tuple[Service, ...]
    #: The descriptions of these services, and of those that only publish.
    descriptions: tuple[ServiceDescription, ...]
    #: Every class of an event: of the checked packages, and those that a declaration names.
    classes: tuple[type[Event], ...]
    settings: Settings = field(default_factory=Settings)
    code: Code = field(default_factory=Code)
    #: The files of the checked packages.
    files: tuple[str, ...] = ()
    #: The places of the services, by their names.
    homes: Mapping[str, Spot] = field(default_factory=dict)
    #: Service → types that its source is seen to publish.
    seen: Mapping[str, Iterable[str]] = field(default_factory=dict)
    #: File → the line and column of each call that announces → its service, as far as the source tells.
    publishing: Mapping[str, Mapping[tuple[int, int], str]] = field(default_factory=dict)
    #: Further types that exist.
    types: tuple[str, ...] = ()
    #: False if it is one service of several.
    is_whole: bool = True

    @classmethod
    def of(cls, *apps: Service, settings: Settings = Settings(), classes: Sequence[type[Event]] = ()) -> Platform:  # noqa: B008 - immutable
        """The platform of these services alone."""
        return cls(apps, tuple(app.describe() for app in apps), (*classes, *declared_events(apps)), settings)

    @cached_property
    def map(self) -> Map:
        """Who announces and who hears what."""
        return drawn(self.descriptions, seen=self.seen, types=self.types)

    @cached_property
    def subscriptions(self) -> dict[str, Subscription]:
        """The declarations of the handlers, by their names."""
        return {one.name: one for app in self.apps for one in app.subscriptions}

    @cached_property
    def by_type(self) -> dict[str, list[type[Event]]]:
        """The classes of each type. Not choreo's own."""
        found: dict[str, list[type[Event]]] = {}
        for event in dict.fromkeys(self.classes):
            if not issubclass(event, Alert):
                found.setdefault(event.event_type, []).append(event)
        return found

    @property
    def handlers(self) -> Iterator[tuple[HandlerDescription, Subscription]]:
        """The handlers: what they declare, as data and as it is. Not the stories."""
        for described in self.map.handlers:
            subscription = self.subscriptions.get(described.name)
            if subscription is not None and not isinstance(subscription, Story):
                yield described, subscription

    @property
    def joins(self) -> Iterator[tuple[HandlerDescription, Join]]:
        """The joins."""
        for described, subscription in self.handlers:
            if isinstance(subscription, Join):
                yield described, subscription

    def sources(self) -> Iterator[File]:
        """The files of the checked packages, or, without a package, those of the handlers."""
        own = [definition for one in self.subscriptions.values() if (definition := self._file_of(one))]
        for path in dict.fromkeys([*self.files, *own]):
            file = self.code.file(path)
            if file is not None:
                yield file

    def spot_of(self, name: str) -> Spot:
        """The place of a handler, a service or an event type; of a handler without a source that of its service."""
        spot = NOWHERE
        if name in self.subscriptions and not isinstance(self.subscriptions[name], Story):
            spot = self.code.of_function(self.subscriptions[name].reaction.function)
        elif name in self.by_type:
            spot = self.code.of_class(self.by_type[name][0])
        return spot if spot.file else self.homes.get(name) or self.homes.get(name.partition(".")[0]) or NOWHERE

    @cached_property
    def handler_at(self) -> dict[tuple[str, int], str]:
        """The names of the handlers, by the file and the first line of their functions."""
        spots = ((self.spot_of(name), name) for name in self.subscriptions)
        return {(spot.file, spot.first): name for spot, name in spots if spot.first}

    def is_announced_elsewhere(self, event_type: str) -> bool:
        """True if the settings say that a program elsewhere announces this type."""
        return any(matches(pattern, event_type) for pattern in self.settings.announced_elsewhere)

    def is_heard_elsewhere(self, event_type: str) -> bool:
        """True if the settings say that a program elsewhere hears this type."""
        return any(matches(pattern, event_type) for pattern in self.settings.heard_elsewhere)

    def _file_of(self, subscription: Subscription) -> str:
        return self.code.of_function(subscription.reaction.function).file


def declared_events(apps: Iterable[Service]) -> Iterator[type[Event]]:
    """The classes of events that declarations of these services name."""
    for app in apps:
        yield from app.announces or ()
        for one in app.subscriptions:
            yield from one.reaction.announces or ()
            for parameter in one.reaction.inputs:
                yield from (model for model in parameter.models if issubclass(model, Event))
