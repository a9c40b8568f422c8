"""Subscriptions: the events that a handler listens to. Data only, made once when the module is imported."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from choreo.declare.context import Context
from choreo.declare.reaction import Reaction, describe
from choreo.declare.retry import Retry
from choreo.errors import DeclarationError
from choreo.events import naming
from choreo.events.envelope import Envelope
from choreo.events.event import Event, known_events
from choreo.events.patterns import matches

logger = logging.getLogger(__name__)

#: An event class, or a pattern such as "order.*".
Topic = type[Event] | str

#: Middleware: called with the context and ``proceed``, which runs the rest. See `choreo.Service.around`.
Around = Callable[[Context, Callable[[], list[Envelope]]], object]


@dataclass(frozen=True, slots=True)
class Subscription:
    """The declaration of one handler."""

    #: The name of the service.
    service: str
    #: The name of the handler and of its task: ``<service>.<function>``. The queue has it too, after the namespace.
    name: str
    #: The event types and patterns that the handler listens to.
    patterns: tuple[str, ...]
    reaction: Reaction
    retry: Retry
    #: Middleware of this handler alone, outermost first.
    around: tuple[Around, ...] = ()
    #: Celery's options of the handler's task, as pairs of a name and a value: see `choreo.declare.checks`.
    options: tuple[tuple[str, Any], ...] = ()


def patterns_of(topics: Sequence[Topic], where: str) -> tuple[str, ...]:
    """
    Return the routing patterns of event classes and patterns.

    Raises `DeclarationError` for anything else, and for an event that is named twice.
    """
    patterns = []
    for topic in topics:
        if isinstance(topic, type) and issubclass(topic, Event) and hasattr(topic, "event_type"):
            patterns.append(topic.event_type)
        elif isinstance(topic, str):
            naming.check_pattern(topic)
            patterns.append(topic)
        else:
            raise DeclarationError(
                f'{where} listens to {topic!r}, which is neither an event class nor a pattern like "order.*".'
            )
    if len(set(patterns)) < len(patterns):
        raise DeclarationError(f"{where} names the same event twice: {', '.join(sorted(patterns))}.")
    return tuple(patterns)


def warn_of_unknown(subscriptions: Iterable[Subscription]) -> None:
    """
    Log a warning for each pattern that no known event matches, and that differs little from one that does.

    It is most likely mistyped, and its queue would stay empty. It is no error: the class of the event may belong to
    another service.
    """
    types = known_events()
    for subscription in subscriptions:
        for pattern in subscription.patterns:
            if not any(matches(pattern, known) for known in types) and (guess := _guess(pattern, types)):
                logger.warning(
                    "%s listens to %r, and no event that is imported here has such a type: did you mean %r? If it is "
                    'right, declare its class: class ...(Event, type="...").',
                    subscription.name,
                    pattern,
                    guess,
                )


def _guess(pattern: str, types: Iterable[str]) -> str | None:
    """Return a similar pattern that an event of these types matches; None if there is none."""
    parts = pattern.split(".")
    candidates = set()
    for known in types:
        words = known.split(".")
        if not {"*", "#"} & set(parts):
            candidates.add(known)
        elif "#" not in parts and len(parts) == len(words):
            candidates.add(".".join(part if part == "*" else word for part, word in zip(parts, words, strict=True)))
        elif parts[-1] == "#":
            head = [part if part == "*" else word for part, word in zip(parts[:-1], words, strict=False)]
            candidates.add(".".join([*head, "#"]))
        elif parts[0] == "#":
            tail = words[-(len(parts) - 1) :]
            candidates.add(".".join(["#", *tail]))
    found = get_close_matches(pattern, sorted(candidates), n=1, cutoff=0.75)
    return found[0] if found else None


def check_single(reaction: Reaction, topics: Sequence[Topic]) -> None:
    """Raise `DeclarationError` unless the function takes exactly one event, and can read each of these events."""
    where = describe(reaction.function)
    if len(reaction.inputs) != 1:
        raise DeclarationError(
            f"{where} takes {_count(len(reaction.inputs), 'event')}. A handler takes one (and a Context, if it wants); "
            f"to wait for several events, declare a join."
        )
    (parameter,) = reaction.inputs
    if parameter.listed:
        raise DeclarationError(
            f"{where} takes a list of events, and a handler takes one. To wait for several, declare a join: "
            f"@app.join(OrderPlaced, Several(ItemPacked, 3))."
        )
    read = {model for model in parameter.models if issubclass(model, Event)}
    if read and {getattr(model, "event_type", None) for model in read} != set(patterns_of(topics, where)):
        heard = ", ".join(sorted(_spoken(topic) for topic in topics))
        raise DeclarationError(
            f"{where} listens to {heard}, but its parameter {parameter.name!r} reads "
            f"{_names(read)}. Make them the same, or annotate it with Envelope."
        )


def _spoken(topic: Topic) -> str:
    if isinstance(topic, str):
        return "a pattern" if {"*", "#"} & set(topic) else topic
    return topic.__name__


def _names(classes: set[type[Event]]) -> str:
    return ", ".join(sorted(cls.__name__ for cls in classes))


def _count(number: int, noun: str) -> str:
    return f"no {noun}" if number == 0 else f"{number} {noun}s"
