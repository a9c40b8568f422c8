"""CH4: how far one event spreads: circles, fan-out, depth. A flow that nobody can draw on a whiteboard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from choreo.check.annotations import may_return_nothing
from choreo.check.platform import Platform
from choreo.check.rule import Fault, Rule
from choreo.events.naming import OWN_TYPES
from choreo.findings import ERROR

#: Type → the types that an event of it can lead to, with the handlers that announce them.
Flow = Mapping[str, Mapping[str, list[str]]]


def flow(platform: Platform) -> Flow:
    """What leads to what. Alerts and stories are left out: they tell of the flow, and are no part of it."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for event in platform.map.events:
        if event.type in OWN_TYPES:
            continue
        for hearer in event.heard_by:
            subscription = platform.subscriptions.get(hearer.name)
            if subscription is None or hearer.how in ("story", "unless"):
                continue
            for announced in subscription.reaction.announces or ():
                found[event.type][announced.event_type].append(hearer.name)
    return found


def _endless(platform: Platform) -> Iterator[Fault]:
    yield from _circles(platform, has_exit=False)


def _with_exit(platform: Platform) -> Iterator[Fault]:
    yield from _circles(platform, has_exit=True)


def _circles(platform: Platform, *, has_exit: bool) -> Iterator[Fault]:
    leads = flow(platform)
    for circle in _all_circles(leads):
        steps = list(zip(circle, [*circle[1:], circle[0]], strict=True))
        handlers = [leads[one][other][0] for one, other in steps]
        if has_exit == any(_can_stop(platform, name, circle) for name in handlers):
            round_trip = " → ".join([*circle, circle[0]])
            text = f"it leads to itself: {round_trip}, by {', '.join(dict.fromkeys(handlers))}"
            yield Fault(circle[0], text, platform.spot_of(handlers[0]))


def _can_stop(platform: Platform, name: str, circle: list[str]) -> bool:
    """True if the handler may announce nothing, or something that is not on the circle."""
    reaction = platform.subscriptions[name].reaction
    announced = {event.event_type for event in reaction.announces or ()}
    return bool(announced - set(circle)) or may_return_nothing(reaction.function)


def _all_circles(leads: Flow) -> list[list[str]]:
    """The circles, each once: for each type the shortest one that begins with it and has no smaller type."""
    found: dict[frozenset[str], list[str]] = {}
    for start in sorted(leads):
        path = _shortest(leads, start)
        if path and frozenset(path) not in found and not any(set(other) < set(path) for other in found.values()):
            found[frozenset(path)] = path
    return list(found.values())


def _shortest(leads: Flow, start: str) -> list[str]:
    """The shortest path from a type back to itself; empty if there is none."""
    paths = [[start]]
    seen: set[str] = set()
    while paths:
        path = paths.pop(0)
        for following in sorted(leads.get(path[-1], ())):
            if following == start:
                return path
            if following not in seen:
                seen.add(following)
                paths.append([*path, following])
    return []


def _fan_out(platform: Platform) -> Iterator[Fault]:
    most = platform.settings.fan_out
    for event in platform.map.events:
        if event.type not in OWN_TYPES and len(event.by_name) > most:
            text = f"{len(event.by_name)} handlers hear it, more than fan_out = {most}"
            yield Fault(event.type, text, platform.spot_of(event.type))


@dataclass
class _Longest:
    """The longest chains of a flow, each type found once. A circle counts as one round."""

    leads: Flow
    known: dict[str, list[str]] = field(default_factory=dict)

    def from_(self, start: str, before: frozenset[str] = frozenset()) -> list[str]:
        """The longest chain that begins with this type."""
        if start not in self.known:
            here = before | {start}
            ways = [self.from_(one, here) for one in self.leads.get(start, ()) if one not in here]
            self.known[start] = [start, *max(ways, key=len, default=[])]
        return self.known[start]


def _depth(platform: Platform) -> Iterator[Fault]:
    leads, most = flow(platform), platform.settings.depth
    followers = {other for others in leads.values() for other in others}
    chains = _Longest(leads)
    for start in sorted(set(leads) - followers):
        chain = chains.from_(start)
        if len(chain) > most:
            text = f"it begins a chain of {len(chain)} events, more than depth = {most}: {' → '.join(chain)}"
            yield Fault(start, text, platform.spot_of(start))


def _spaghetti(platform: Platform) -> Iterator[Fault]:
    leads, most = flow(platform), platform.settings.services
    followers = {other for others in leads.values() for other in others}
    for start in sorted(set(leads) - followers):
        services = _services(platform, _reached(leads, start))
        if len(services) > most:
            text = f"its story reaches {len(services)} services, more than services = {most}: {', '.join(services)}"
            yield Fault(start, text, platform.spot_of(start))


def _reached(leads: Flow, start: str) -> set[str]:
    found, left = {start}, [start]
    while left:
        new = set(leads.get(left.pop(), ())) - found
        found |= new
        left += new
    return found


def _services(platform: Platform, types: set[str]) -> list[str]:
    events = [event for event in platform.map.events if event.type in types]
    return sorted({hearer.service for event in events for hearer in event.by_name})


RULES = (
    Rule(
        "CH401",
        "events lead to each other without an end",
        "Each handler of the circle always announces the next event, so it runs until choreo_max_hops ends it.",
        "let a handler of the circle announce nothing, or another event, when it is done",
        _endless,
        ERROR,
        needs_all=True,
    ),
    Rule(
        "CH402",
        "events lead to each other in a circle",
        "It ends only if a handler decides so in time; choreo_max_hops ends it otherwise.",
        "make sure that each round brings the end nearer, and say in an allowance what ends it",
        _with_exit,
        needs_all=True,
    ),
    Rule(
        "CH403",
        "more handlers hear an event than the budget allows",
        "An event that everybody hears is hard to change: it says too many things at once.",
        "split the event into the facts that its hearers care about, or raise fan_out in [tool.choreo.check]",
        _fan_out,
        needs_all=True,
    ),
    Rule(
        "CH404",
        "a chain of events is longer than the budget allows",
        "Nobody sees the whole of a long chain, and each step adds its delay and its failures.",
        "let one service do several steps, or coordinate them; or raise depth in [tool.choreo.check]",
        _depth,
        needs_all=True,
    ),
    Rule(
        "CH405",
        "a story reaches more services than the budget allows",
        "A flow that nobody can draw is a god service in pieces.",
        "coordinate the critical path with a process manager; or raise services in [tool.choreo.check]",
        _spaghetti,
        needs_all=True,
    ),
)
