"""Makes descriptions of the classes with which a service reads and announces events."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from choreo.declare.description import ModelDescription
from choreo.declare.join import Join
from choreo.declare.reaction import Parameter, Reaction
from choreo.declare.story import Story
from choreo.declare.subscription import Subscription
from choreo.declare.undo import Undo
from choreo.events.event import Event
from choreo.events.naming import OWN_TYPES
from choreo.schemas.shape import read, written

Model = type[BaseModel]


def described_models(models: Iterable[Model]) -> dict[Model, ModelDescription]:
    """Each class with its description, sorted by name. Not those of choreo's own alerts, which choreo looks after."""
    own = [model for model in dict.fromkeys(models) if getattr(model, "event_type", "") not in OWN_TYPES]
    named = sorted(_named(own), key=lambda pair: pair[0])
    return {model: _described(name, model) for name, model in named}


def models_read(subscription: Subscription) -> dict[str, list[Model]]:
    """Type or pattern → the classes that read its events. What is taken as it is travels has none."""
    if isinstance(subscription, Story):
        return {}
    found: dict[str, list[Model]] = {}
    for topic, parameter, _ in inputs(subscription):
        found.setdefault(topic, []).extend(_models_of(parameter, topic))
    return {topic: list(dict.fromkeys(models)) for topic, models in found.items() if models}


def models_heard(subscription: Subscription) -> Iterator[Model]:
    """The event classes that a handler names beside: their upcasters make what a view reads."""
    for _, parameter, _ in inputs(subscription):
        yield from parameter.heard.values()
    if isinstance(subscription, Join):
        yield from subscription.classes.values()


def models_announced(subscription: Subscription) -> Iterator[Model]:
    """The event classes that a handler may announce."""
    for reaction in _reactions(subscription):
        yield from reaction.announces or ()


def _reactions(subscription: Subscription) -> list[Reaction]:
    on_timeout = subscription.on_timeout if isinstance(subscription, Join) else None
    return [subscription.reaction, *([on_timeout] if on_timeout else [])]


def inputs(subscription: Subscription) -> Iterator[tuple[str, Parameter, Reaction]]:
    """Each type or pattern with each parameter that reads it, and the function that has the parameter."""
    for reaction in _reactions(subscription):
        for topics, parameter in zip(_topics(subscription), reaction.inputs, strict=False):
            yield from ((topic, parameter, reaction) for topic in topics)


def _topics(subscription: Subscription) -> Sequence[Sequence[str]]:
    """The types and patterns of which each parameter takes events. A story has a function without parameters."""
    if isinstance(subscription, Undo):
        return subscription.effects, subscription.failures
    return [(part,) for part in subscription.parts] if isinstance(subscription, Join) else [subscription.patterns]


def _models_of(parameter: Parameter, topic: str) -> Sequence[Model]:
    if parameter.wants_envelope:
        return ()
    classes = [model for model in parameter.models if getattr(model, "event_type", None) == topic]
    return classes or [parameter.model_of(topic)]


def _named(models: Sequence[Model]) -> Iterator[tuple[str, Model]]:
    """Each class with a name: its own one, with the module if two share it, and the version if that is no help."""
    short = Counter(model.__name__ for model in models)
    full = Counter(map(_full_name, models))
    for model in models:
        name = model.__name__ if short[model.__name__] == 1 else _full_name(model)
        yield (name if full[_full_name(model)] == 1 else f"{name} v{getattr(model, 'event_version', 0)}"), model


def _full_name(model: Model) -> str:
    return f"{model.__module__}.{model.__qualname__}"


def _described(name: str, model: Model) -> ModelDescription:
    if not (issubclass(model, Event) and hasattr(model, "event_type")):
        return ModelDescription(name, _as_dict(read(model)))
    steps = model.event_upcasters
    return ModelDescription(
        name,
        _as_dict(read(model)),
        model.event_type,
        model.event_version,
        _as_dict(written(model)),
        model.event_readable_by,
        # Not their places: a line that was added above would make another description of it.
        tuple({name: value for name, value in step.described().items() if name != "place"} for step in steps),
    )


def _as_dict(schema: Mapping[str, Any]) -> dict[str, Any]:
    return dict(schema)
