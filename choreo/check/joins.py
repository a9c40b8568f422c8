"""CH3: joins that can never complete."""

from __future__ import annotations

from collections.abc import Iterator

from choreo.check.annotations import returns_one_at_most
from choreo.check.hearing import unannounced
from choreo.check.platform import Platform
from choreo.check.rule import Fault, Rule
from choreo.declare.description import HandlerDescription
from choreo.declare.join import Join
from choreo.events.event import Event
from choreo.events.json_types import field_schemas, json_types
from choreo.findings import ERROR


def _without_a_part(platform: Platform) -> Iterator[Fault]:
    missing = {event.type: event.similar for event in unannounced(platform)}
    for described, join in platform.joins:
        absent = [part for part in join.parts if part in missing]
        if described.kind != "join" or len(join.parts) - len(absent) >= join.quorum:
            continue
        for part in absent:
            guess = f": did you mean {missing[part]}?" if missing[part] else ""
            text = f"it waits for {part}, which nobody announces{guess}"
            yield Fault(described.name, text, platform.spot_of(described.name))


def _keys_that_fail(platform: Platform) -> Iterator[Fault]:
    """Keys that can be missing, or are no text and no whole number: such an event becomes a dead letter."""
    for described, join in platform.joins:
        for part, key in join.keys.items():
            for event in platform.by_type.get(part, [])[:1]:
                kinds = json_types(event, key)
                if kinds - {"string", "integer"}:
                    what = "can be missing" if "null" in kinds else f"is a {', '.join(sorted(kinds))}"
                    text = f"its key {key} of {part} {what}; an event without a text or a whole number fits no join"
                    yield Fault(described.name, text, platform.spot_of(described.name))


def _keys_of_two_kinds(platform: Platform) -> Iterator[Fault]:
    for described, join in platform.joins:
        kinds = {
            part: kind
            for part, key in join.keys.items()
            for event in platform.by_type.get(part, [])[:1]
            for kind in [_kind(event, key)]
            if kind
        }
        if len(set(kinds.values())) > 1:
            told = ", ".join(f"{join.keys[part]} of {part} is {kind}" for part, kind in kinds.items())
            yield Fault(described.name, f"its parts can never have one key: {told}", platform.spot_of(described.name))


def _either_part(platform: Platform) -> Iterator[Fault]:
    """Two parts that only one handler announces, the one or the other."""
    for described, join in platform.joins:
        if described.kind != "join" or join.quorum < len(join.parts):
            continue
        for source in _announcers_of_all(platform, described, join):
            function = platform.subscriptions[source].reaction.function
            if returns_one_at_most(function) and len(_announced(platform, source) & set(join.parts)) > 1:
                both = " and ".join(sorted(_announced(platform, source) & set(join.parts)))
                text = f"it waits for {both}, and {source} returns one of them or the other"
                yield Fault(described.name, text, platform.spot_of(described.name))


def _announcers_of_all(platform: Platform, described: HandlerDescription, join: Join) -> list[str]:
    """The handler that alone announces at least two parts of a join."""
    alone: list[str] = []
    for part in join.parts:
        event = platform.map.event(part)
        names = {(one.name, one.how) for one in event.announced_by} if event else set()
        if len(names) == 1 and (name := next(iter(names)))[1] == "" and name[0] in platform.subscriptions:
            alone.append(name[0])
    return sorted({name for name in alone if alone.count(name) > 1 and name != described.name})


def _announced(platform: Platform, name: str) -> set[str]:
    return {event.event_type for event in platform.subscriptions[name].reaction.announces or ()}


def _kind(event: type[Event], key: str) -> str:
    """A kind of keys that never equals another: a UUID, a whole number. "" for any other."""
    (schema, *others) = field_schemas(event, key)
    if others:
        return ""
    if schema.get("format") == "uuid":
        return "a UUID"
    return "a whole number" if schema.get("type") == "integer" else ""


RULES = (
    Rule(
        "CH301",
        "a join waits for a type that nobody announces",
        "It never completes: at its deadline each of its events becomes a dead letter, or on_timeout runs.",
        "correct the type, declare who announces it, or name it in announced_elsewhere of [tool.choreo.check]",
        _without_a_part,
        ERROR,
        needs_all=True,
    ),
    Rule(
        "CH302",
        "the key of a join can be missing, or is no key",
        "An event without a key becomes a dead letter, and its join waits in vain.",
        "make the field a text or a whole number, and required; or join by the subject",
        _keys_that_fail,
        ERROR,
    ),
    Rule(
        "CH303",
        "the parts of a join have keys of different kinds",
        "No key of the one part ever equals a key of the other, so the join never completes.",
        "join by fields that hold the same value",
        _keys_of_two_kinds,
        ERROR,
    ),
    Rule(
        "CH304",
        "a join waits for two events of which only one is announced",
        "A handler that returns A | B announces one of them, so a join of both never completes.",
        "hear either with @app.on(A, B), or use at_least=1",
        _either_part,
        ERROR,
        needs_all=True,
    ),
)
