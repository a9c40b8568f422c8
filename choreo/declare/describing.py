"""Makes the description of a service from its declarations."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

from pydantic import BaseModel

from choreo.declare.around import Surrounded
from choreo.declare.description import Fields, HandlerDescription, ModelDescription, ServiceDescription
from choreo.declare.join import Join, wire_name
from choreo.declare.models import described_models, inputs, models_announced, models_heard, models_read
from choreo.declare.reaction import Parameter, Reaction, announced_by
from choreo.declare.story import Story
from choreo.declare.subscription import Subscription
from choreo.declare.undo import Undo
from choreo.declare.uses import fields_used, sees_events
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.events.foreign_types import foreign_types
from choreo.events.upcast import Upcast
from choreo.events.versions import newest, versions_of
from choreo.events.wire_names import wire_names


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
    subscriptions = sorted(subscriptions, key=lambda subscription: subscription.name)
    told = () if listener is None else announced_by(listener)
    models = described_models([*_models(subscriptions), *(announces or ()), *(told or ())])
    return ServiceDescription(
        service,
        tuple(_whole(subscription, models) for subscription in subscriptions),
        _types(announces),
        _types(told),
        tuple(models.values()),
    )


def _models(subscriptions: Iterable[Subscription]) -> Iterator[type[BaseModel]]:
    """The classes with which these handlers read and announce events."""
    for subscription in subscriptions:
        for read in models_read(subscription).values():
            yield from read
        yield from models_heard(subscription)
        yield from models_announced(subscription)


def _whole(subscription: Subscription, models: Mapping[type[BaseModel], ModelDescription]) -> HandlerDescription:
    return replace(
        _handler(subscription, models),
        foreign=foreign_types(subscription.patterns),
        concurrency=subscription.concurrency or 0,
        sequential_by="" if subscription.sequential is None else str(subscription.sequential.series),
        key_fields={} if subscription.sequential is None else dict(subscription.sequential.fields),
        batch=0 if subscription.batch is None else subscription.batch.size,
    )


def _handler(subscription: Subscription, models: Mapping[type[BaseModel], ModelDescription]) -> HandlerDescription:
    if isinstance(subscription, Story):
        return _story(subscription)
    if isinstance(subscription, Undo):
        return _undo(subscription, models)
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
        no_undo=subscription.no_undo,
        versions=_versions_read(subscription),
        models=_named(subscription, models),
        uses=_uses(subscription),
    )


def _story(story: Story) -> HandlerDescription:
    """A story reads no field but its key, and announces only at its deadline."""
    reads = {kind: (story.keys[kind],) if kind in story.keys else () for kind in story.patterns}
    overdue = _types(story.reaction.announces)
    return HandlerDescription(story.name, story.patterns, (), overdue, reads, story.described())


def _named(
    subscription: Subscription, models: Mapping[type[BaseModel], ModelDescription]
) -> dict[str, tuple[str, ...]]:
    """Type or pattern → the names of the classes that read it."""
    return {
        topic: tuple(models[model].name for model in read)
        for topic, read in models_read(subscription).items()
        if models.keys() >= set(read)
    }


def _versions_read(subscription: Subscription) -> dict[str, tuple[int, ...]]:
    """The versions of each type that a handler reads, without the types of which it reads any."""
    inputs = subscription.reaction.inputs
    if isinstance(subscription, Undo):
        pairs = [
            (kind, parameter)
            for parameter, kinds in zip(inputs, (subscription.effects, subscription.failures), strict=False)
            for kind in kinds
        ]
    elif isinstance(subscription, Join):
        pairs = list(zip(subscription.parts, inputs, strict=True))
    else:
        pairs = [(pattern, inputs[0]) for pattern in subscription.patterns]
    found = {kind: _versions(parameter, kind) for kind, parameter in pairs}
    return {kind: versions for kind, versions in found.items() if versions}


def _undo(undo: Undo, models: Mapping[type[BaseModel], ModelDescription]) -> HandlerDescription:
    """What it reads of the event of the effect, and of that of the failure if it takes it."""
    read: dict[str, Fields] = dict.fromkeys(undo.failures, ()) | {kind: (key,) for kind, key in undo.keys.items()}
    for parameter, kinds in zip(undo.reaction.inputs, (undo.effects, undo.failures), strict=False):
        for kind in kinds:
            fields = _fields(parameter, kind)
            read[kind] = None if fields is None else tuple(dict.fromkeys([*(read.get(kind) or ()), *fields]))
    announces, attempts, versions = _types(undo.reaction.announces), undo.retry.attempts, _versions_read(undo)
    named = _named(undo, models)
    return HandlerDescription(
        undo.name,
        undo.patterns,
        announces,
        (),
        read,
        undo.described(),
        attempts,
        versions=versions,
        models=named,
        uses=_uses(undo),
    )


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
    yield from _looked_at(join)


def _looked_at(join: Join) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The fields that the join itself looks at."""
    for several in join.several.values():
        if several.of is not None and several.per is not None:
            yield several.of.event_type, (wire_name(several.of, several.per),)
    yield from ((part, (key,)) for part, key in join.keys.items())


def _uses(subscription: Subscription) -> dict[str, Fields]:
    """Type or pattern → the fields that its functions use, as far as their source tells. None: any, or all of them."""
    found: dict[str, Fields] = {}
    for topic, parameter, reaction in inputs(subscription):
        fields, before = _used(subscription, reaction, parameter, topic), found.get(topic, ())
        found[topic] = None if fields is None or before is None else (*before, *fields)
    for topic, own in _looked_at(subscription) if isinstance(subscription, Join) else ():
        before = found.get(topic, ())
        found[topic] = None if before is None else (*before, *own)
    return {topic: None if used is None else tuple(sorted(set(used))) for topic, used in found.items()}


def _used(subscription: Subscription, reaction: Reaction, parameter: Parameter, topic: str) -> Fields:
    classes: list[type[Any]] = [Envelope] if parameter.wants_envelope else [*parameter.classes_of(topic)]
    if not classes:
        return _fields(parameter, topic)
    seeing = [(reaction.function, one.name) for one in reaction.parameters if one.wants_context]
    around = reaction.around if isinstance(reaction, Surrounded) else subscription.around
    seeing += [(one, next(iter(signature(one).parameters))) for one in around]
    if any(sees_events(function, name) for function, name in seeing):
        return None
    found = [fields_used(reaction.function, parameter.name, model) for model in classes]
    if None in found:
        return None
    names = {name for used in found for name in used or ()}
    if parameter.wants_envelope:
        return tuple(names)
    return tuple(wire_name(model, name) for model in classes for name in model.model_fields if name in names)


def _fields(parameter: Parameter, event_type: str) -> Fields:
    if parameter.wants_envelope:
        return None
    model = parameter.model_of(event_type)
    if model.model_config.get("extra") == "allow":
        return None
    event = _versioned(parameter, event_type)
    names = tuple(dict.fromkeys(wire_names(model)))
    return (*names, *_former(names, event.event_upcasters if event else ()))


def _versioned(parameter: Parameter, event_type: str) -> type[Event] | None:
    """The class in whose newest version a parameter reads events of this type; None if it reads any."""
    return newest(parameter.classes_of(event_type)) or parameter.heard.get(event_type)


def _former(names: Iterable[str], steps: Sequence[Upcast]) -> Iterator[str]:
    """The names that these fields had in older versions, as far as the upcasters tell: the first part of each."""
    known = set(names)
    for step in reversed(steps):
        for old, new in step.renamed.items():
            first = old.partition(".")[0]
            if new.partition(".")[0] in known and first not in known:
                known.add(first)
                yield first


def _versions(parameter: Parameter, event_type: str) -> tuple[int, ...]:
    """The versions of this type that a parameter reads. (): any."""
    classes = parameter.classes_of(event_type) or [*filter(None, [parameter.heard.get(event_type)])]
    return tuple(sorted({version for event in classes for version in versions_of(event)}))
