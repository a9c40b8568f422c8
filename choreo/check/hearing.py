"""CH2: events that nobody hears, and handlers that hear nothing."""

import ast
import re
from collections.abc import Iterator

from choreo.check.platform import Platform
from choreo.check.rule import Fault, Rule
from choreo.events import naming
from choreo.events.event import Event
from choreo.events.patterns import matches
from choreo.findings import ERROR
from choreo.observe.map import MappedEvent, is_wild


def _unheard(platform: Platform) -> Iterator[Fault]:
    for event in platform.map.events:
        is_own = event.type in naming.OWN_TYPES or platform.is_heard_elsewhere(event.type)
        if event.is_unheard and event.announced_by and not is_own:
            names = ", ".join(dict.fromkeys(one.name for one in event.announced_by))
            text = f"{names} announces it, and nobody hears it{_meant(event.similar)}"
            yield Fault(event.type, text, platform.spot_of(event.type))


def _unannounced(platform: Platform) -> Iterator[Fault]:
    """Subscriptions to types that nobody announces. The parts of joins have a rule of their own."""
    for event in unannounced(platform):
        for hearer in event.by_name:
            if hearer.how in ("on", "unless", "undo"):
                text = f"it hears {event.type}, which nobody announces{_meant(event.similar)}"
                yield Fault(hearer.name, text, platform.spot_of(hearer.name))


def unannounced(platform: Platform) -> Iterator[MappedEvent]:
    """The events that are heard by their types, and that no declaration, and no code that is seen, announces."""
    possible = _perhaps_announced(platform)
    for event in platform.map.events:
        if not event.announced_by and event.type not in possible and not platform.is_announced_elsewhere(event.type):
            yield event


def _perhaps_announced(platform: Platform) -> set[str]:
    """The types of the classes that are named in handlers without a return annotation."""
    named: set[str] = set()
    for described, subscription in platform.handlers:
        if described.announces is None:
            found = platform.code.definition(subscription.reaction.function)
            named |= {node.id for node in ast.walk(found[1]) if isinstance(node, ast.Name)} if found else set()
    return {kind for kind, classes in platform.by_type.items() if any(event.__name__ in named for event in classes)}


def _idle_patterns(platform: Platform) -> Iterator[Fault]:
    types = [event.type for event in platform.map.events if event.announced_by]
    for handler in platform.map.handlers:
        for pattern in filter(is_wild, handler.hears):
            known = [*types, *platform.settings.announced_elsewhere]
            if not any(matches(pattern, one) for one in known):
                text = f"it hears {pattern!r}, and no event that anybody announces has such a type"
                yield Fault(handler.name, text, platform.spot_of(handler.name))


def _nearly_equal(platform: Platform) -> Iterator[Fault]:
    """Two types that are both in use, and differ in a plural or in a dot."""
    first: dict[str, str] = {}
    for event in platform.map.events:
        other = first.setdefault(_bare(event.type), event.type)
        if other != event.type:
            yield Fault(event.type, f"{other} is another type with nearly the same name", platform.spot_of(event.type))


def _bare(event_type: str) -> str:
    return "".join(word.removesuffix("s") for word in re.split(r"[._]", event_type))


def _base_events(platform: Platform) -> Iterator[Fault]:
    """Handlers of a class that has subclasses of other types, none of which they hear."""
    for kind, classes in platform.by_type.items():
        derived = {sub.event_type for event in classes for sub in _derived(platform, event)} - {kind}
        for hearer in _hearers(platform, kind):
            deaf = derived - set(platform.subscriptions[hearer].patterns)
            if deaf:
                text = f"it hears {kind}, and none of the types of its subclasses: {', '.join(sorted(deaf))}"
                yield Fault(hearer, text, platform.spot_of(hearer))


def _derived(platform: Platform, event: type[Event]) -> Iterator[type[Event]]:
    """The subclasses of this class, as far as they are of the platform. Other programs' may be imported too."""
    return (other for other in platform.classes if other is not event and issubclass(other, event))


def _hearers(platform: Platform, kind: str) -> list[str]:
    event = platform.map.event(kind)
    return [hearer.name for hearer in event.by_name] if event else []


def _meant(similar: str) -> str:
    return f": did you mean {similar}?" if similar else ""


RULES = (
    Rule(
        "CH201",
        "nobody hears an event",
        "It is announced for nothing, or its hearer waits for another name.",
        "remove it, declare its hearer, or name it in heard_elsewhere of [tool.choreo.check]",
        _unheard,
        needs_all=True,
    ),
    Rule(
        "CH202",
        "a handler hears a type that nobody announces",
        "The handler never runs, and no error ever says so.",
        "correct the type, declare who announces it, or name it in announced_elsewhere of [tool.choreo.check]",
        _unannounced,
        ERROR,
        needs_all=True,
    ),
    Rule(
        "CH203",
        "a handler hears a pattern that no event matches",
        "The handler never runs, and no error ever says so.",
        "correct the pattern, or name the events in announced_elsewhere of [tool.choreo.check]",
        _idle_patterns,
        ERROR,
        needs_all=True,
    ),
    Rule(
        "CH204",
        "two types have nearly the same name",
        "Sooner or later somebody hears the one and announces the other.",
        "give one fact one type",
        _nearly_equal,
        needs_all=True,
    ),
    Rule(
        "CH205",
        "a handler of a base event hears none of its subclasses",
        "Each class has a type of its own, and a handler hears types.",
        "name each class in @app.on, or listen to a pattern",
        _base_events,
    ),
)
