"""Joins: the events that a handler waits for. Data only, made and checked once when the module is imported."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from choreo.declare.counts import Asked, counts_in, needed
from choreo.declare.reaction import Parameter, Reaction, describe
from choreo.declare.subscription import Around, Subscription, patterns_of
from choreo.declare.versions import described
from choreo.declare.views import check_reads
from choreo.durations import LONGEST, is_wait
from choreo.errors import DeclarationError, EnvelopeError
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.events.upcast import data_for
from choreo.events.wire_names import written_name

#: How a join finds the key of an event: a field of all its events, or a field for each; None is the subject.
By = str | Mapping[type[Event], str | None] | None


@dataclass(frozen=True, slots=True)
class Several:
    """
    A part of a join that consists of several events of one type. ``Several(ItemPacked, 3)`` waits for three.

    ``Several(ItemPacked, per="items", of=OrderPlaced)`` takes the number from another part of the join: the field is a
    number, or a list whose length counts.

    The handler takes the events as ``list[ItemPacked]``, in the order in which they were announced. An event counts
    once, also if it is delivered twice.

    Raises `DeclarationError` unless either ``times``, or both ``per`` and ``of``, are given.
    """

    #: The event class.
    event: type[Event]
    #: The number of events, from 1.
    times: int | None = None
    #: The field of ``of`` that holds the number or the list.
    per: str | None = None
    #: The event class of the other part.
    of: type[Event] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.event, type) or not issubclass(self.event, Event):
            raise DeclarationError(f"Several({self.event!r}): it takes an event class, like Several(ItemPacked, 3).")
        name = self.event.__name__
        counted, stated = self.times is not None, self.per is not None and self.of is not None
        if counted == stated or (self.per is None) != (self.of is None):
            raise DeclarationError(
                f"Several({name}, ...): say how many. Write Several({name}, 3), or take the number from another part: "
                f'Several({name}, per="items", of=OrderPlaced).'
            )
        if counted and (not isinstance(self.times, int) or isinstance(self.times, bool) or self.times < 1):
            raise DeclarationError(f"Several({name}, {self.times!r}): a whole number from 1.")


#: One argument of `@app.join`.
Part = type[Event] | Several


@dataclass(frozen=True, slots=True)
class Join(Subscription):
    """
    A handler that waits until its parts have arrived for one key, and then runs once for this key.

    The order of arrival does not matter. An event that arrives twice counts once. With ``rounds`` the next new event
    begins another round of the same key.
    """

    #: The event types of the parts, in the order of the handler's parameters.
    parts: tuple[str, ...] = ()
    #: The time from the first part to the deadline.
    within: timedelta = timedelta(hours=1)
    #: Runs at the deadline if the join is not complete. None: the parts that arrived become a dead letter.
    on_timeout: Reaction | None = None
    #: Event types that cancel the join. It ignores parts that arrive later.
    unless: tuple[str, ...] = ()
    #: The number of parts that complete the join. 0: all parts.
    at_least: int = 0
    #: The parts that consist of several events: type → declaration.
    several: Mapping[str, Several] = field(default_factory=dict)
    #: How many events of each of these types are needed.
    asked: Asked = field(default_factory=dict)
    #: True if a new event begins a new round after the join of its key was settled.
    rounds: bool = False
    #: For events whose key is not their subject: type → the field that holds the key, by its name on the wire.
    keys: Mapping[str, str] = field(default_factory=dict)
    #: The classes of the events of which the join itself reads a field: its key, or a number of other parts.
    classes: Mapping[str, type[Event]] = field(default_factory=dict)
    #: What the store needs to know of the parts: see `choreo.store.joins.Arrival.needs`.
    needed: Mapping[str, int | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        needed = dict.fromkeys(self.parts) | {part: need or 0 for part, need in self.needs().items()}
        object.__setattr__(self, "needed", needed)  # the class is frozen

    @property
    def quorum(self) -> int:
        """The number of parts that complete the join."""
        return self.at_least or len(self.parts)

    def cancels(self, envelope: Envelope) -> bool:
        """Return True if this event cancels the join."""
        return envelope.type in self.unless

    def key_of(self, envelope: Envelope) -> str:
        """Return the key that this event belongs to. Raises `EnvelopeError` when the event has none to be read."""
        name = self.keys.get(envelope.type)
        if name is None:
            if not envelope.subject:
                raise EnvelopeError(f"{envelope.type} has no subject, so {self.name} has no key for it")
            return envelope.subject
        value = self.as_declared(envelope).data.get(name)
        if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
            raise EnvelopeError(
                f"{name} of {envelope} is {value!r}, neither a text nor a whole number, so {self.name} has no key "
                f"for it"
            )
        return str(value)

    def as_declared(self, envelope: Envelope) -> Envelope:
        """
        The event, with the data of the version whose fields the join reads.

        Raises `VersionError` if that cannot be had of its version, and `UpcastError` if an upcaster fails.
        """
        event = self.classes.get(envelope.type)
        if event is None or event.event_version == envelope.version:
            return envelope
        return replace(envelope, data=data_for(event, envelope))

    def place_of(self, envelope: Envelope) -> int:
        """Return the position of this event among the parts. An event of an unknown type comes after all parts."""
        return self.parts.index(envelope.type) if envelope.type in self.parts else len(self.parts)

    @property
    def many(self) -> Collection[str]:
        """The types of which the join keeps each event under a name of its own: see `choreo.store.parts.name_of`."""
        return self.parts if self.rounds else self.several

    def needs(self) -> dict[str, int | None]:
        """Return how many events each part in `several` needs; None if another part holds the number."""
        return {part: several.times for part, several in self.several.items()}

    def counts_in(self, envelope: Envelope) -> dict[str, int]:
        """Return how many events of other parts this event asks for. Raises `EnvelopeError` without a number."""
        return counts_in(self.as_declared(envelope), self.asked) if self.asked else {}

    def in_order(self, arrived: Mapping[str, Sequence[Envelope]]) -> list["Envelope | list[Envelope] | None"]:
        """
        Return the arguments of the handler, in the order of its parameters.

        ``arrived``: type → its events, in the order of `age`. A part that has not arrived is None.
        """
        taken: list[Envelope | list[Envelope] | None] = []
        for part in self.parts:
            here = arrived.get(part, ())
            taken.append(list(here) if part in self.several else here[0] if here else None)
        return taken

    def is_complete(self, arrived: Mapping[str, Sequence[Envelope]]) -> bool:
        """Return True if these events complete the join."""
        counts = self._counts_among(envelope for part in self.parts for envelope in arrived.get(part, ()))
        return sum(self._is_full(part, arrived, counts) for part in self.parts) >= self.quorum

    def _counts_among(self, envelopes: Iterable[Envelope]) -> dict[str, int]:
        """How many events of each type these events ask for, as far as that can be read."""
        counts: dict[str, int] = {}
        for envelope in envelopes if self.asked else ():
            with suppress(EnvelopeError):
                counts |= self.counts_in(envelope)
        return counts

    def _is_full(self, part: str, arrived: Mapping[str, Sequence[Envelope]], counts: Mapping[str, int]) -> bool:
        wanted = needed(part, self.asked, counts)
        return wanted is not None and len(arrived.get(part, ())) >= wanted

    def described(self) -> dict[str, Any]:
        """Return the join as JSON. `choreo joins` reads it, which works without the code of the service."""
        lacking = {
            parameter.name if part is None else part: parameter.optional or parameter.listed
            for part, parameter in zip(self.parts, self.reaction.inputs, strict=True)
        }
        return {
            "parts": list(self.parts),
            "at_least": self.quorum,
            "several": dict(self.asked),
            "keys": dict(self.keys),
            "versions": described(self.classes),
            "unless": list(self.unless),
            "rounds": self.rounds,
            "within": self.within.total_seconds(),
            "on_timeout": self.on_timeout is not None,
            # The parts for which the handler accepts None, or an empty list.
            "optional": [part for part, without in lacking.items() if without],
        }


def age(envelope: Envelope) -> tuple[Any, str]:
    """Sort key: events by the time of their announcement. Their identities break ties, so every worker sorts alike."""
    return envelope.time, envelope.identity


def wire_name(event: type[Event], name: str) -> str:
    """Return the name that a field of this event has on the wire."""
    return written_name(name, event.model_fields[name])


def make_join(
    *parts: Part,
    service: str,
    name: str,
    retry: Any,
    reaction: Reaction,
    within: timedelta,
    on_timeout: Reaction | None,
    unless: tuple[type[Event], ...],
    at_least: int | None,
    by: By,
    rounds: bool = False,
    around: tuple[Around, ...] = (),
    options: tuple[tuple[str, Any], ...] = (),
    no_undo: str = "",
) -> Join:
    """Make a join from the arguments of ``@app.join``. Raises `DeclarationError` when they do not fit together."""
    where = describe(reaction.function)
    events = [part.event if isinstance(part, Several) else part for part in parts]
    names = patterns_of(events, where)
    several = {part.event.event_type: part for part in parts if isinstance(part, Several)}
    _check_parts(where, events, names, several)
    _check_times(where, within, unless, at_least, len(parts))
    _check_rounds(where, rounds, at_least)
    check_join(reaction, parts, optional=at_least is not None)
    check_reads(reaction, [[event] for event in events])
    if on_timeout is not None:
        check_join(on_timeout, parts, optional=True)
        check_reads(on_timeout, [[event] for event in events])
    keys = keys_of(where, by, [*events, *unless])
    return Join(
        service=service,
        name=name,
        patterns=patterns_of((*events, *unless), where),
        reaction=reaction.hearing(events),
        retry=retry,
        parts=names,
        within=within,
        on_timeout=on_timeout and on_timeout.hearing(events),
        unless=patterns_of(unless, where),
        at_least=at_least or 0,
        several=several,
        asked={part: _asked(one) for part, one in several.items()},
        rounds=rounds,
        keys=keys,
        classes=classes_read([*events, *unless], keys, several.values()),
        around=around,
        options=options,
        no_undo=no_undo,
    )


def classes_read(
    events: Iterable[type[Event]], keys: Collection[str], several: Iterable[Several] = ()
) -> dict[str, type[Event]]:
    """The classes of the events of which a join reads a field."""
    telling = {one.of for one in several}
    return {event.event_type: event for event in events if event.event_type in keys or event in telling}


def _asked(several: Several) -> dict[str, Any]:
    if several.of is None:
        return {"times": several.times}
    return {"per": wire_name(several.of, several.per or ""), "of": several.of.event_type}


def check_join(reaction: Reaction, parts: Sequence[Part], *, optional: bool | None = False) -> None:
    """
    Raise `DeclarationError` unless this function takes exactly these events, in this order.

    With ``optional``, each parameter for a single event must be ``| None``, because the event can be missing. Without
    it the parameter may be ``| None``: an operator can then fire the join without the event. A list can be empty.
    """
    inputs = reaction.inputs
    fits = len(inputs) == len(parts) and all(
        _fits(parameter, part, optional) for parameter, part in zip(inputs, parts, strict=True)
    )
    if not fits:
        wanted = ", ".join(_wanted(part, optional) for part in parts)
        raise DeclarationError(
            f"{describe(reaction.function)} must take the joined events in the order of the join: ({wanted})."
        )


def _fits(parameter: Parameter, part: Part, optional: bool | None) -> bool:
    event = part.event if isinstance(part, Several) else part
    if parameter.listed != isinstance(part, Several):
        return False
    if optional and not (parameter.optional or parameter.listed):
        return False
    if parameter.wants_envelope or not issubclass(parameter.models[0], Event):
        return True
    # Classes of several versions of the event, or of a generic one with other types.
    return {getattr(model, "event_type", None) for model in parameter.models} == {event.event_type}


def _wanted(part: Part, optional: bool | None) -> str:
    if isinstance(part, Several):
        return f"list[{part.event.__name__}]"
    return part.__name__ + (" | None" if optional else "")


def _check_parts(
    where: str, events: Sequence[type[Event]], names: Sequence[str], several: Mapping[str, Several]
) -> None:
    if not all(isinstance(event, type) for event in events):
        raise DeclarationError(f"{where} joins {', '.join(names)}. A join takes event classes, not patterns.")
    if len(events) < 2 and not several:
        if not events:
            raise DeclarationError(f"{where} joins no event. Write @app.join(OrderConfirmed, PaymentCharged).")
        raise DeclarationError(f"{where} joins 1 event. To hear one event, write @app.on({events[0].__name__}).")
    for part in several.values():
        if part.of is None:
            continue
        if part.of not in events or part.of.event_type in several:
            raise DeclarationError(
                f"{where}: Several({part.event.__name__}, of={part.of.__name__}) needs {part.of.__name__} as another "
                f"part of this join, of which there is one."
            )
        check_field(where, part.of, part.per or "", "per")


def _check_times(where: str, within: object, unless: Sequence[object], at_least: object, parts: int) -> None:
    check_within(where, within)
    if not all(isinstance(event, type) for event in unless):
        raise DeclarationError(f"{where}: unless={unless!r} takes event classes, not patterns.")
    if at_least is None:
        return
    if not isinstance(at_least, int) or isinstance(at_least, bool) or not 1 <= at_least < parts:
        raise DeclarationError(
            f"{where}: at_least={at_least!r} of {parts} parts. Write a number from 1 to {parts - 1}, or leave it out "
            f"to wait for all."
        )


def check_within(where: str, within: object) -> None:
    """Raise `DeclarationError` unless this is a time to wait."""
    if not isinstance(within, timedelta) or not is_wait(within, above=0):
        raise DeclarationError(
            f"{where}: within={within!r} is not a time to wait, above 0 and up to {LONGEST.days} days. Write "
            f"within=timedelta(minutes=30)."
        )


def _check_rounds(where: str, rounds: object, at_least: object) -> None:
    if not isinstance(rounds, bool):
        raise DeclarationError(f"{where}: rounds={rounds!r} is neither True nor False.")
    if rounds and at_least is not None:
        raise DeclarationError(
            f"{where}: rounds=True does not go with at_least={at_least!r}. The part that comes last would begin a new "
            f"round, in which the others are missing."
        )


def keys_of(where: str, by: By, events: Sequence[type[Event]]) -> dict[str, str]:
    """Return the field that holds the key: type → name on the wire. Raises `DeclarationError` for a wrong ``by``."""
    if by is None:
        return {}
    if isinstance(by, str):
        by = dict.fromkeys(events, by)
    elif not isinstance(by, Mapping):
        raise DeclarationError(f'{where}: by={by!r} is not a field. Write by="order_id".')
    keys = {}
    for event in events:
        if event not in by:
            raise DeclarationError(
                f"{where}: by= names no key for {event.__name__}. Name a field of it, or None for its subject."
            )
        name = by[event]
        if name is not None:
            check_field(where, event, name, "by")
            keys[event.event_type] = wire_name(event, name)
    if strange := [event for event in by if event not in events]:
        named = ", ".join(getattr(event, "__name__", repr(event)) for event in strange)
        raise DeclarationError(f"{where}: by= names {named}, which this join does not listen to.")
    return keys


def check_field(where: str, event: type[Event], name: object, option: str) -> None:
    """Raise `DeclarationError` unless the event has a field of this name."""
    if name not in event.model_fields:
        known = ", ".join(event.model_fields) or "no fields"
        raise DeclarationError(f"{where}: {option}={name!r}, but {event.__name__} has {known}.")
