"""Undoing: a handler that takes back an effect once a failure demands it. Data only, made when a module is imported."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from choreo.declare.join import By, Join, check_within, classes_read, keys_of
from choreo.declare.reaction import Parameter, Reaction, announced_by, describe
from choreo.declare.subscription import Around, Subscription, patterns_of
from choreo.declare.versions import described
from choreo.declare.views import check_reads
from choreo.errors import DeclarationError
from choreo.events.envelope import Envelope
from choreo.events.event import Event

#: How long an effect waits for a failure, and a failure for an effect, if nothing else is said.
WITHIN = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Undo(Join):
    """
    A handler that runs once for each event that announced an effect, after an event that demands it: a failure.

    Either may come first. ``parts`` are the types of both. To the store it is a join that a failure completes; the
    undoing of each effect is then a unit of its own.
    """

    #: The types of the events that announce the effect.
    effects: tuple[str, ...] = ()
    #: The types of the events that demand that it is undone: one is enough.
    failures: tuple[str, ...] = ()
    #: The name of the handler whose effect is undone. "": it is that of another service.
    undone: str = ""

    @property
    def takes_failure(self) -> bool:
        """True if the function has a parameter for the event that demands it."""
        return len(self.reaction.inputs) > 1

    @property
    def many(self) -> Sequence[str]:
        """The types of which each event is kept: every effect is undone."""
        return self.effects

    def is_complete(self, arrived: Mapping[str, Sequence[Envelope]]) -> bool:
        """Return True if a failure has arrived."""
        return any(arrived.get(kind) for kind in self.failures)

    def described(self) -> dict[str, Any]:
        """Return it as JSON, in the form of a join. `choreo effects` reads it, without the service's code."""
        lacks_failure = not self.takes_failure or self.reaction.inputs[1].optional
        return {
            "undo": {"handler": self.undone, "effects": list(self.effects), "failures": list(self.failures)},
            "parts": list(self.parts),
            "at_least": 1,
            "several": {},
            "keys": dict(self.keys),
            "versions": described(self.classes),
            "unless": list(self.unless),
            "rounds": False,
            "within": self.within.total_seconds(),
            "on_timeout": False,
            "optional": list(self.failures) if lacks_failure else [],
        }


def make_undo(
    *topics: Any,
    undoes: object,
    subscriptions: Iterable[Subscription],
    service: str,
    name: str,
    retry: Any,
    reaction: Reaction,
    within: timedelta | None,
    unless: tuple[type[Event], ...],
    by: By,
    around: tuple[Around, ...] = (),
    options: tuple[tuple[str, Any], ...] = (),
) -> Undo:
    """
    Make it from the arguments of ``@app.on(..., undoes=...)``. ``subscriptions`` are the service's so far.

    Raises `DeclarationError` when they do not fit together.
    """
    where = describe(reaction.function)
    kept = WITHIN if within is None else within
    _check_options(where, topics, unless, kept)
    classes, undone = _effects(where, undoes, reaction, list(subscriptions))
    effects, failures = patterns_of(classes, where), patterns_of(topics, where)
    _check_events(where, reaction, classes, topics)
    events = [*classes, *topics, *unless]
    keys = keys_of(where, by, events)
    return Undo(
        service=service,
        name=name,
        patterns=patterns_of(events, where),
        reaction=reaction.hearing([*classes, *topics]),
        retry=retry,
        parts=(*effects, *failures),
        within=kept,
        unless=patterns_of(unless, where),
        keys=keys,
        classes=classes_read(events, keys),
        around=around,
        options=options,
        effects=effects,
        failures=failures,
        undone=undone,
    )


def _check_options(where: str, topics: Sequence[object], unless: Sequence[object], within: timedelta) -> None:
    """Raise `DeclarationError` for what is no event class, and for what is no time to wait."""
    if not all(isinstance(topic, type) for topic in topics):
        raise DeclarationError(f"{where} undoes something after {topics!r}: name the event of the failure, no pattern.")
    if not all(isinstance(event, type) for event in unless):
        raise DeclarationError(f"{where}: unless={unless!r} takes event classes, not patterns.")
    check_within(where, within)


def _check_events(
    where: str, reaction: Reaction, effects: Sequence[type[Event]], failures: Sequence[type[Event]]
) -> None:
    """Raise `DeclarationError` unless the effects are no failures, and the function reads both."""
    if both := {event.event_type for event in effects} & {event.event_type for event in failures}:
        raise DeclarationError(f"{where}: {', '.join(sorted(both))} cannot be the effect and its failure at once.")
    _check_inputs(where, reaction.inputs, effects, failures)
    check_reads(reaction, [effects, failures][: len(reaction.inputs)])


def check_only_undo(where: str, **options: object) -> None:
    """Raise `DeclarationError` for an option that only a handler with ``undoes=`` takes."""
    for name, value in options.items():
        if value not in (None, ()):
            raise DeclarationError(
                f"{where}: {name}= is for a handler that undoes something. Add undoes=, or write @app.join to wait "
                f"for several events."
            )


def checked_reason(where: str, no_undo: object) -> str:
    """Return ``no_undo``: why nothing need be undone. Raises `DeclarationError` for anything but a text."""
    if no_undo is None:
        return ""
    if not isinstance(no_undo, str) or not no_undo.strip():
        raise DeclarationError(f'{where}: no_undo={no_undo!r} says why, in a text: no_undo="points expire".')
    return no_undo.strip()


def _effects(
    where: str, undoes: object, reaction: Reaction, subscriptions: Sequence[Subscription]
) -> tuple[tuple[type[Event], ...], str]:
    """The classes of the events that announce what is undone, and the name of the handler; "" for an event class."""
    if isinstance(undoes, type) and issubclass(undoes, Event) and hasattr(undoes, "event_type"):
        return (undoes,), ""
    if not callable(undoes) or isinstance(undoes, type):
        raise DeclarationError(
            f"{where}: undoes={undoes!r} is neither a handler nor an event. Write undoes=charge_customer, or the event "
            f"that announces the effect: undoes=PaymentCharged."
        )
    handler = next((one for one in subscriptions if one.reaction.function == undoes), None)
    if handler is None:
        raise DeclarationError(
            f"{where}: undoes= names {describe(undoes)}, which is no handler of this service that is declared above. "
            f"Declare it first, or name the event that announces the effect: undoes=PaymentCharged."
        )
    announced = announced_by(undoes)
    if not announced:
        raise DeclarationError(
            f"{where}: undoes= names {handler.name}, whose return annotation names no event. Annotate it, since its "
            f"event is what tells that there is something to undo: -> PaymentCharged."
        )
    read = reaction.inputs[0].models if reaction.inputs else ()
    chosen = tuple(event for event in announced if event in read)
    if not chosen and len(announced) > 1:
        names = ", ".join(event.__name__ for event in announced)
        raise DeclarationError(
            f"{where} undoes {handler.name}, which announces {names}. Its first parameter says which of them is the "
            f"effect: annotate it with that event."
        )
    return chosen or announced, handler.name


def _check_inputs(
    where: str, inputs: Sequence[Parameter], effects: Sequence[type[Event]], failures: Sequence[type[Event]]
) -> None:
    """Raise `DeclarationError` unless the function takes the effect's event, and at most the failure's after it."""
    fits = 1 <= len(inputs) <= 2 and all(
        _reads(parameter, events) for parameter, events in zip(inputs, (effects, failures), strict=False)
    )
    if not fits or inputs[0].optional:
        effect, failure = (" | ".join(event.__name__ for event in events) for events in (effects, failures))
        raise DeclarationError(
            f"{where} must take the event of the effect, and after it, if it wants, that of the failure: "
            f"({effect}) or ({effect}, {failure})."
        )


def _reads(parameter: Parameter, events: Sequence[type[Event]]) -> bool:
    read = {model for model in parameter.models if issubclass(model, Event)}
    return not parameter.listed and (not read or read == set(events))
