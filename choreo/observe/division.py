"""Divisions: services whose live workers declare different handlers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.events.patterns import matches
from choreo.store.presence import Presence, Program

#: The most nodes, handlers and types that a line names of each.
MOST_NAMED = 3


@dataclass(frozen=True)
class Side:
    """The live workers of one service that declare the same handlers."""

    #: Their versions; without those that are unknown.
    versions: tuple[str, ...]
    nodes: tuple[str, ...]
    #: The handlers that the others do not declare, or not in the same way.
    only: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{', '.join(self.versions) or 'unknown version'} on {_listed(self.nodes)}"

    @property
    def text(self) -> str:
        """What only this side declares, for people."""
        return f"{self}: only {_listed(self.only)}" if self.only else f"{self}: nothing more"


@dataclass(frozen=True)
class Division:
    """A service whose live workers declare different handlers: two versions of it, or two programs of one name."""

    service: str
    sides: tuple[Side, ...]
    #: Type → the handlers of different sides that hear it: each of them handles the same event.
    twice: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All sides, for people."""
        return f"{self.service} ({'; '.join(side.text for side in self.sides)})"

    @property
    def trouble(self) -> str:
        """Which handlers handle one event, though no version declares them all; "" if none do."""
        if not self.twice:
            return ""
        names = dict.fromkeys(name for handlers in self.twice.values() for name in handlers)
        return f"{self.service}: {_listed(list(self.twice))} runs {' and '.join(names)}, of different live versions"


def divisions(presences: Mapping[str, Presence]) -> list[Division]:
    """The divided services among these. Versions that differ only in what they read or announce are not divided."""
    found = (_division(service, presence) for service, presence in presences.items())
    return [division for division in found if division is not None]


def _division(service: str, presence: Presence) -> Division | None:
    sides = _sides(presence)
    if len(sides) < 2:
        return None
    everywhere = set.intersection(*({repr(one.shape) for one in handlers} for handlers, _ in sides))
    own = [[one for one in handlers if repr(one.shape) not in everywhere] for handlers, _ in sides]
    told = [_side(workers, only) for (_, workers), only in zip(sides, own, strict=True)]
    return Division(service, tuple(told), dict(_twice(own)))


def _sides(presence: Presence) -> list[tuple[Sequence[HandlerDescription], list[Program]]]:
    """The handlers that live workers declare, each with these workers."""
    found: dict[str, tuple[Sequence[HandlerDescription], list[Program]]] = {}
    for worker in presence.workers:
        with suppress(KeyError, ValueError, TypeError, AttributeError):
            handlers = ServiceDescription.from_json(presence.descriptions[worker.digest]).handlers
            shapes = repr(sorted(repr(handler.shape) for handler in handlers))
            found.setdefault(shapes, (handlers, []))[1].append(worker)
    return list(found.values())


def _side(workers: Sequence[Program], only: Sequence[HandlerDescription]) -> Side:
    versions = dict.fromkeys(worker.version for worker in workers if worker.version)
    nodes = dict.fromkeys(worker.node for worker in workers)
    return Side(tuple(versions), tuple(nodes), tuple(handler.name for handler in only))


def _twice(own: Sequence[Sequence[HandlerDescription]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Type or pattern → the handlers that hear it, and that no side declares together."""
    names = [{handler.name for handler in side} for side in own]
    for kind in sorted({kind for side in own for handler in side for kind in handler.hears}):
        found = [{one.name for one in side if any(matches(heard, kind) for heard in one.hears)} for side in own]
        apart = sorted(one for one in set().union(*found) if sum(one in side for side in names) < len(own))
        if len(apart) > 1 and not any(set(apart) <= side for side in names):
            yield kind, tuple(apart)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
