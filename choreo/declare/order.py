"""What a handler says about the order of its events, and how many of its runs there may be at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from choreo.errors import DeclarationError, EnvelopeError
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.events.json_types import json_types
from choreo.events.upcast import data_for
from choreo.events.wire_names import written_name

#: `Series.by` for the subject of an event.
SUBJECT = "subject"


@dataclass(frozen=True, slots=True)
class Series:
    """
    The events of one key, which a handler handles one after another: ``sequential_by=Series("customer_id")``.

    ``sequential_by="customer_id"`` is short for it. See docs/ordering.md. Raises `DeclarationError` for values that
    cannot work.
    """

    #: ``"subject"``, or a field of the event, whose value is the key.
    by: str = SUBJECT
    #: True: while an event waits for its retry, the next ones of its key go on. False: they wait until it is finished.
    retries_pass: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.by, str) or not self.by:
            raise DeclarationError(
                f'Series({self.by!r}): "subject", or the name of a field of the event: Series("customer_id").'
            )
        if not isinstance(self.retries_pass, bool):
            raise DeclarationError(f"Series(retries_pass={self.retries_pass!r}): it takes True or False.")

    def __str__(self) -> str:
        return f"{self.by}, retries pass" if self.retries_pass else self.by


@dataclass(frozen=True, slots=True)
class Sequential:
    """The series of one handler, and where its key is in each event."""

    series: Series
    #: Type → the name of the key's field on the wire. Empty: the subject.
    fields: Mapping[str, str] = field(default_factory=dict)
    #: Type → the class whose field it is.
    classes: Mapping[str, type[Event]] = field(default_factory=dict)

    def key_of(self, envelope: Envelope) -> str:
        """The key of this event; "" if it has none: then it waits for no other event."""
        if not self.fields:
            return envelope.subject or ""
        name, event = self.fields.get(envelope.type, ""), self.classes.get(envelope.type)
        try:
            if event is not None and event.event_version != envelope.version:
                envelope = replace(envelope, data=data_for(event, envelope))
        except EnvelopeError:  # its handler cannot read it either, and makes a dead letter of it
            return ""
        value = envelope.data.get(name)
        return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def checked_sequential(where: str, wanted: object, topics: Sequence[type[Event] | str]) -> Sequential | None:
    """Return ``sequential_by`` of a handler. Raises `DeclarationError` unless its key can be read in these events."""
    if wanted is None:
        return None
    if not isinstance(wanted, (str, Series)) or not wanted:
        raise DeclarationError(
            f'{where}: sequential_by={wanted!r} is no key. Write sequential_by="subject", or name a field of the '
            f'event: sequential_by="customer_id".'
        )
    series = Series(wanted) if isinstance(wanted, str) else wanted
    if series.by == SUBJECT:
        return Sequential(series)
    classes = {topic.event_type: topic for topic in topics if not isinstance(topic, str)}
    for topic in topics:
        if isinstance(topic, str):
            raise DeclarationError(
                f"{where}: sequential_by={series.by!r} is a field, and the events of the pattern {topic!r} may have "
                f'others. Name event classes: @app.on(OrderPlaced), or write sequential_by="subject".'
            )
        if series.by not in topic.model_fields:
            known = ", ".join(topic.model_fields) or "no fields"
            raise DeclarationError(
                f"{where}: sequential_by={series.by!r}, but {topic.__name__} has {known}. For the subject of the "
                f'event write sequential_by="subject".'
            )
    fields = {kind: written_name(series.by, event.model_fields[series.by]) for kind, event in classes.items()}
    for kind, event in classes.items():
        types = json_types(event, fields[kind]) - {"null"}
        if not types & {"string", "integer", "unknown"}:
            raise DeclarationError(
                f"{where}: sequential_by={series.by!r} is of the JSON type {' or '.join(sorted(types)) or 'null'} in "
                f"{event.__name__}, and a key is a text or a whole number. Name another field, or write "
                f'sequential_by="subject".'
            )
    return Sequential(series, fields, classes)


def checked_concurrency(where: str, concurrency: object) -> int | None:
    """Return ``concurrency``. Raises `DeclarationError` unless it is a whole number from 1, or None."""
    if concurrency is None:
        return None
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise DeclarationError(
            f"{where}: concurrency={concurrency!r} is not a whole number from 1. It is the most runs of this handler "
            f"at a time, in all workers: concurrency=1. To stop a handler for a while, use `choreo pause`."
        )
    return concurrency


def refuse_order(where: str, other: str, **options: Any) -> None:
    """Raise `DeclarationError` for the first of these options that is given: it does not fit the option ``other``."""
    for name, value in options.items():
        if value is not None:
            raise DeclarationError(
                f"{where}: {name}={value!r} does not fit {other}=. It is for a handler of single events: leave it out, "
                f"or announce an event from this handler, and handle that with @app.on(..., {name}={value!r})."
            )
