"""Subscriptions: the events that a handler listens to. Data only, made once when the module is imported."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from choreo.declare.batch import Batch
from choreo.declare.context import Context
from choreo.declare.reaction import Parameter, Reaction, describe
from choreo.declare.retry import Retry
from choreo.errors import DeclarationError
from choreo.events import naming
from choreo.events.envelope import Envelope
from choreo.events.event import Event, known_events
from choreo.events.patterns import matches
from choreo.events.versions import covers

if TYPE_CHECKING:
    from choreo.declare.order import Sequential

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
    #: Why its effect need not be undone, as its author says. "": nothing is said.
    no_undo: str = ""
    #: How many events it is called with at once. None: one.
    batch: Batch | None = None
    #: The most runs at a time, in all workers of the service; None: as many as the workers have places.
    concurrency: int | None = None
    #: The events that are handled one after another; None: none.
    sequential: "Sequential | None" = None


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
        raise DeclarationError(
            f"{where} names the same event twice: {', '.join(sorted(patterns))}. Of several versions of an event, a "
            f"join or a story names the newest: it stands for all of them."
        )
    return tuple(patterns)


def newest_of(topics: Iterable[Topic]) -> list[Topic]:
    """The topics. Of classes that are versions of one event, only the newest is among them."""
    listed = list(topics)
    return [topic for topic in listed if not any(_is_older(topic, other) for other in listed)]


def _is_older(topic: Topic, other: Topic) -> bool:
    if not (isinstance(topic, type) and isinstance(other, type)):
        return False
    types = getattr(topic, "event_type", None), getattr(other, "event_type", "")
    return types[0] == types[1] and topic.event_version < other.event_version


def classes_in(topics: Iterable[Topic]) -> list[type[Event]]:
    """The classes of events among these topics."""
    return [topic for topic in topics if isinstance(topic, type)]


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
    read = {model for model in parameter.models if issubclass(model, Event)}
    if read and {getattr(model, "event_type", None) for model in read} != set(patterns_of(topics, where)):
        heard = ", ".join(sorted(_spoken(topic) for topic in topics))
        raise DeclarationError(
            f"{where} listens to {heard}, but its parameter {parameter.name!r} reads "
            f"{_names(read)}. Make them the same, or annotate it with Envelope."
        )
    for topic in classes_in(topics):
        _check_version(where, parameter, topic)


def _check_version(where: str, parameter: Parameter, topic: type[Event]) -> None:
    """Raise `DeclarationError` if a parameter reads only other versions of an event than that which is named."""
    known = parameter.classes_of(topic.event_type)
    if known and not any(covers(event, topic.event_version) for event in known):
        raise DeclarationError(
            f"{where} listens to version {topic.event_version} of {topic.event_type}, which {_names(set(known))} does "
            f"not read. Write {parameter.name}: {topic.__name__}, or listen to {known[0].__name__}."
        )


def _spoken(topic: Topic) -> str:
    if isinstance(topic, str):
        return "a pattern" if {"*", "#"} & set(topic) else topic
    return topic.__name__


def _names(classes: set[type[Event]]) -> str:
    return ", ".join(sorted(cls.__name__ for cls in classes))


def _count(number: int, noun: str) -> str:
    return f"no {noun}" if number == 0 else f"{number} {noun}s"
