"""Makes the description of a service from its declarations."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo

from choreo.declare.description import Fields, HandlerDescription, ServiceDescription
from choreo.declare.join import Join, wire_name
from choreo.declare.reaction import Parameter, Reaction, announced_by
from choreo.declare.story import Story
from choreo.declare.subscription import Subscription
from choreo.events.event import Event


def described(
    service: str,
    subscriptions: Iterable[Subscription],
    announces: Sequence[type[Event]] | None = None,
    listener: Callable[..., Any] | None = None,
) -> ServiceDescription:
    """
    Describe a service.

    ``announces`` are the events that it says to announce outside of handlers. ``listener`` is its function for dead
    letters.
    """
    return ServiceDescription(
        service,
        tuple(map(_handler, sorted(subscriptions, key=lambda subscription: subscription.name))),
        _types(announces),
        () if listener is None else _types(announced_by(listener)),
    )


def _handler(subscription: Subscription) -> HandlerDescription:
    if isinstance(subscription, Story):
        return _story(subscription)
    join = subscription if isinstance(subscription, Join) else None
    on_timeout = join.on_timeout if join else None
    return HandlerDescription(
        subscription.name,
        subscription.patterns,
        _types(subscription.reaction.announces),
        () if on_timeout is None else _types(on_timeout.announces),
        _joined(join) if join else _heard(subscription),
        join.described() if join else None,
        subscription.retry.attempts,
    )


def _story(story: Story) -> HandlerDescription:
    """A story reads no field but its key, and announces only at its deadline."""
    reads = {kind: (story.keys[kind],) if kind in story.keys else () for kind in story.patterns}
    overdue = _types(story.reaction.announces)
    return HandlerDescription(story.name, story.patterns, (), overdue, reads, story.described())


def _types(events: Sequence[type[Event]] | None) -> Fields:
    return None if events is None else tuple(sorted({event.event_type for event in events}))


def _heard(subscription: Subscription) -> dict[str, Fields]:
    """What the only parameter of a handler reads of each type and pattern."""
    (parameter,) = subscription.reaction.inputs
    return {pattern: _fields(parameter, pattern) for pattern in subscription.patterns}


def _joined(join: Join) -> dict[str, Fields]:
    """What the functions of a join read of each part, with the fields that the join itself looks at."""
    found: dict[str, Fields] = {}
    for part, fields in _parts(join, [join.reaction, *([join.on_timeout] if join.on_timeout else [])]):
        before = found.get(part, ())
        found[part] = None if fields is None or before is None else tuple(dict.fromkeys([*before, *fields]))
    return found


def _parts(join: Join, reactions: Sequence[Reaction]) -> Iterator[tuple[str, Fields]]:
    for reaction in reactions:
        for part, parameter in zip(join.parts, reaction.inputs, strict=True):
            yield part, _fields(parameter, part)
    for several in join.several.values():
        if several.of is not None and several.per is not None:
            yield several.of.event_type, (wire_name(several.of, several.per),)
    yield from ((part, (key,)) for part, key in join.keys.items())


def _fields(parameter: Parameter, event_type: str) -> Fields:
    if parameter.wants_envelope:
        return None
    model = parameter.model_of(event_type)
    return None if model.model_config.get("extra") == "allow" else tuple(_wire_names(model))


def _wire_names(model: type[BaseModel]) -> Iterator[str]:
    """The names under which a model looks for its fields."""
    names: Mapping[str, FieldInfo] = model.model_fields
    for name, info in names.items():
        alias = info.validation_alias or info.alias or name
        for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
            with suppress(IndexError):
                yield str(choice.path[0]) if isinstance(choice, AliasPath) else choice
