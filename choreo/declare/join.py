"""What a join waits for: pure data, made and checked once when its module is imported."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from choreo.declare.reaction import Parameter, Reaction, describe
from choreo.declare.subscription import Around, Subscription, patterns_of
from choreo.errors import DeclarationError, EnvelopeError
from choreo.events.envelope import Envelope
from choreo.events.event import Event

#: How a join finds what belongs together: a field of all its events, or one for each; None is the subject.
By = str | Mapping[type[Event], str | None] | None


@dataclass(frozen=True, slots=True)
class Several:
    """
    A part of a join that is more than one event of a type: ``Several(ItemPacked, 3)`` waits for three.

    ``Several(ItemPacked, per="items", of=OrderPlaced)`` waits for as many as another part of the join says: its field
    is a list, and counts as its length, or a number.

    The handler takes them as ``list[ItemPacked]``, in the order in which they were announced. They are told apart by
    their event ids, so that one which is delivered twice counts once.
    """

    event: type[Event]
    times: int | None = None
    per: str | None = None
    of: type[Event] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.event, type) or not issubclass(self.event, Event):
            raise DeclarationError(f"Several({self.event!r}): it takes an event class, like Several(ItemPacked, 3).")
        name = self.event.__name__
        counted, told = self.times is not None, self.per is not None and self.of is not None
        if counted == told or (self.per is None) != (self.of is None):
            raise DeclarationError(
                f"Several({name}, ...): say how many. Write Several({name}, 3), or take the number from another part: "
                f'Several({name}, per="items", of=OrderPlaced).'
            )
        if counted and (not isinstance(self.times, int) or isinstance(self.times, bool) or self.times < 1):
            raise DeclarationError(f"Several({name}, {self.times!r}): a whole number from 1.")


#: What `@app.join` takes.
Part = type[Event] | Several


@dataclass(frozen=True, slots=True)
class Join(Subscription):
    """
    A handler that waits until what it needs has arrived for one key, and then runs once.

    Order does not matter, and an event which arrives twice changes nothing. What is not complete ``within`` that time
    ends with ``on_timeout``, or as a dead letter where there is none. ``unless`` cancels the join, and keeps it
    cancelled for parts which come later.
    """

    #: The types of its events, in the order of the handler's parameters.
    parts: tuple[str, ...] = ()
    within: timedelta = timedelta(hours=1)
    on_timeout: Reaction | None = None
    unless: tuple[str, ...] = ()
    #: So many of the parts are enough.
    at_least: int = 0
    #: Those parts of which there are several.
    several: Mapping[str, Several] = field(default_factory=dict)
    #: Where the key is, for the events that are not keyed by their subject: type → name of the field as it travels.
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def quorum(self) -> int:
        """How many of the parts make it complete."""
        return self.at_least or len(self.parts)

    def cancels(self, envelope: Envelope) -> bool:
        return envelope.type in self.unless

    def key_of(self, envelope: Envelope) -> str:
        """What this event belongs to. Raises `EnvelopeError` when it does not say."""
        name = self.keys.get(envelope.type)
        if name is None:
            if not envelope.subject:
                raise EnvelopeError(f"{envelope.type} has no subject, so {self.name} cannot tell what it belongs to")
            return envelope.subject
        value = envelope.data.get(name)
        if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
            raise EnvelopeError(
                f"{name} of {envelope} is {value!r}, neither a text nor a whole number, so {self.name} cannot tell "
                f"what it belongs to"
            )
        return str(value)

    def place_of(self, envelope: Envelope) -> int:
        """Where among the parts this event is; behind them all what is none, such as one of an earlier version."""
        return self.parts.index(envelope.type) if envelope.type in self.parts else len(self.parts)

    def needs(self) -> dict[str, int | None]:
        """How many events each of `several` needs; None where another part tells."""
        return {part: several.times for part, several in self.several.items()}

    def told_by(self, envelope: Envelope) -> dict[str, int]:
        """How many events of other parts this one asks for. Raises `EnvelopeError` when it does not say."""
        told = {}
        for part, several in self.several.items():
            if several.of is not None and several.of.event_type == envelope.type and several.per is not None:
                told[part] = count_in(envelope, wire_name(several.of, several.per), part)
        return told

    def in_order(self, arrived: Mapping[str, Sequence[Envelope]]) -> list["Envelope | list[Envelope] | None"]:
        """
        What the handler takes, in the order of its parameters.

        None for one part that has not arrived; what there are several of comes in the order of its announcement.
        """
        taken: list[Envelope | list[Envelope] | None] = []
        for part in self.parts:
            here = sorted(arrived.get(part, ()), key=age)
            taken.append(here if part in self.several else here[0] if here else None)
        return taken

    def is_complete(self, arrived: Mapping[str, Sequence[Envelope]]) -> bool:
        """Whether this is enough to run the handler."""
        told: dict[str, int] = {}
        for part in self.parts:
            for envelope in arrived.get(part, ()):
                with suppress(EnvelopeError):
                    told |= self.told_by(envelope)
        needed = dict[str, float]()
        for part, need in self.needs().items():
            needed[part] = told.get(part, float("inf")) if need is None else need
        return sum(len(arrived.get(part, ())) >= needed.get(part, 1) for part in self.parts) >= self.quorum

    def described(self) -> dict[str, Any]:
        """The join as JSON, for those who look at what is pending without having its code."""
        lacking = {
            parameter.name if part is None else part: parameter.optional or parameter.listed
            for part, parameter in zip(self.parts, self.reaction.inputs, strict=True)
        }
        return {
            "parts": list(self.parts),
            "at_least": self.quorum,
            "several": {
                part: {"times": several.times}
                if several.of is None
                else {"per": wire_name(several.of, several.per or ""), "of": several.of.event_type}
                for part, several in self.several.items()
            },
            "keys": dict(self.keys),
            "unless": list(self.unless),
            "within": self.within.total_seconds(),
            "on_timeout": self.on_timeout is not None,
            #: Which parts the handler can do without.
            "optional": [part for part, without in lacking.items() if without],
        }


def age(envelope: Envelope) -> tuple[Any, str]:
    """Orders events by when they were announced, the same way wherever it is asked."""
    return envelope.time, envelope.id


def wire_name(event: type[Event], name: str) -> str:
    """How a field of this event is called as it travels."""
    info = event.model_fields[name]
    return info.serialization_alias or info.alias or name


def count_in(envelope: Envelope, name: str, part: str) -> int:
    """The number in this field, or the length of the list. Raises `EnvelopeError` when it is neither."""
    value = envelope.data.get(name)
    if isinstance(value, list):
        return len(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise EnvelopeError(f"{name} of {envelope} is {value!r}, which does not say how many of {part} there will be")


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
    around: tuple[Around, ...] = (),
) -> Join:
    """The join of this handler. Raises `DeclarationError`, with the way out, when it cannot work."""
    where = describe(reaction.function)
    events = [part.event if isinstance(part, Several) else part for part in parts]
    names = patterns_of(events, where)
    several = {part.event.event_type: part for part in parts if isinstance(part, Several)}
    _check_parts(where, events, names, several)
    _check_times(where, within, unless, at_least, len(parts))
    check_join(reaction, parts, optional=at_least is not None)
    if on_timeout is not None:
        check_join(on_timeout, parts, optional=True)
    return Join(
        service=service,
        name=name,
        patterns=patterns_of((*events, *unless), where),
        reaction=reaction,
        retry=retry,
        parts=names,
        within=within,
        on_timeout=on_timeout,
        unless=patterns_of(unless, where),
        at_least=at_least or 0,
        several=several,
        keys=_keys(where, by, [*events, *unless]),
        around=around,
    )


def check_join(reaction: Reaction, parts: Sequence[Part], *, optional: bool | None = False) -> None:
    """
    Raise `DeclarationError` unless this function takes exactly these events, in this order.

    With ``optional`` each that can be missing must be ``| None``; otherwise it may be, for a join that somebody fires
    by hand. A list can be empty.
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
    return parameter.wants_envelope or not issubclass(parameter.models[0], Event) or parameter.models == (event,)


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
    if not isinstance(within, timedelta) or within <= timedelta(0):
        raise DeclarationError(f"{where}: within={within!r} is no time to wait. Write within=timedelta(minutes=30).")
    if not all(isinstance(event, type) for event in unless):
        raise DeclarationError(f"{where}: unless={unless!r} takes event classes, not patterns.")
    if at_least is None:
        return
    if not isinstance(at_least, int) or isinstance(at_least, bool) or not 1 <= at_least < parts:
        raise DeclarationError(
            f"{where}: at_least={at_least!r} of {parts} parts. Write a number from 1 to {parts - 1}, or leave it out "
            f"to wait for all."
        )


def _keys(where: str, by: By, events: Sequence[type[Event]]) -> dict[str, str]:
    if by is None:
        return {}
    if isinstance(by, str):
        by = dict.fromkeys(events, by)
    elif not isinstance(by, Mapping):
        raise DeclarationError(f'{where}: by={by!r} is no field. Write by="order_id".')
    keys = {}
    for event in events:
        if event not in by:
            raise DeclarationError(
                f"{where}: by= does not say what {event.__name__} belongs to. Name a field of it, or None for its "
                f"subject."
            )
        name = by[event]
        if name is not None:
            check_field(where, event, name, "by")
            keys[event.event_type] = wire_name(event, name)
    if strange := [event for event in by if event not in events]:
        named = ", ".join(getattr(event, "__name__", repr(event)) for event in strange)
        raise DeclarationError(f"{where}: by= speaks of {named}, which this join does not listen to.")
    return keys


def check_field(where: str, event: type[Event], name: object, option: str) -> None:
    """Raise `DeclarationError` unless the event has a field of this name."""
    if name not in event.model_fields:
        known = ", ".join(event.model_fields) or "no fields"
        raise DeclarationError(f"{where}: {option}={name!r}, but {event.__name__} has {known}.")
