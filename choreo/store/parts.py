"""Names and texts of the parts of a join, as the store keeps them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import sha1
from typing import Any

from choreo.events.envelope import Envelope
from choreo.events.message import compact, parsed

#: The attribute of an event that is sent to the join with this key: see `addressed`.
KEY = "choreojoinkey"
#: The attribute of an event whose effect is to be undone: see `demanded`.
DEMAND = "choreoundo"
#: `Settlement.note` of a join that was cancelled, or ended without parts: later events are expected.
CANCELLED = "cancelled"


def unit_of(key: str) -> str:
    """Return the unit of the join with this key."""
    return f"join:{key}"


def key_of(unit: str) -> str | None:
    """Return the key of the join with this unit; None if the unit is not a join."""
    return unit.removeprefix("join:") if unit.startswith("join:") else None


def name_of(envelope: Envelope, several: Iterable[str]) -> str:
    """Return the name of a part: its type, or ``type/identity`` if the join takes several of the type."""
    return f"{envelope.type}/{envelope.identity}" if envelope.type in several else envelope.type


def addressed(envelope: Envelope, key: str) -> Envelope:
    """
    Return the event for a message to the join with this key: for a retry, a replay, or a part that is sent once more.

    The message names the key because a later version of the service may take it from another field.
    """
    return replace(envelope, extensions=envelope.extensions | {KEY: key})


def read_address(envelope: Envelope) -> tuple[Envelope, str | None]:
    """Return the event that `addressed` got, and the key; None if the message names none."""
    key = envelope.extensions.get(KEY)
    if not isinstance(key, str):
        return envelope, None
    others = {name: value for name, value in envelope.extensions.items() if name != KEY}
    return replace(envelope, extensions=others), key


def demanded(effect: Envelope, failure: Envelope | None) -> Envelope:
    """Return the event of an effect as the message carries it that demands to undo it. None: by hand, no failure."""
    named = "" if failure is None else compact([failure.type, packed(failure)])
    return replace(effect, extensions=effect.extensions | {DEMAND: named})


def is_demanded(envelope: Envelope) -> bool:
    """True for an event that `demanded` returned."""
    return DEMAND in envelope.extensions


def read_demand(envelope: Envelope) -> tuple[Envelope, Envelope | None]:
    """Return the events that `demanded` got. Raises `ValueError` for an attribute that it did not write."""
    others = {name: value for name, value in envelope.extensions.items() if name != DEMAND}
    effect = replace(envelope, extensions=others)
    named = envelope.extensions.get(DEMAND)
    return effect, read_failure(named) if named else None


def read_failure(text: Any) -> Envelope:
    """Return the event in this text of a demand. Raises `ValueError` for any other text."""
    try:
        kind, event = parsed(text)
        return _unpack(kind, event)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{text!r} is no demand to undo something: {error}") from error


def mark_of(identity: str) -> str:
    """Return a short mark of an event, by which a settled join knows its parts. The script arrive.lua computes it."""
    return sha1(identity.encode(), usedforsecurity=False).hexdigest()[:8]


def packed(envelope: Envelope) -> str:
    """
    Return an event as text. The same event always gives the same text.

    To save memory (there may be millions of parts), the text is a list without names of attributes, and without the
    type, which is in the name of the part.
    """
    record: list[Any] = [
        envelope.id,
        envelope.source,
        envelope.subject,
        envelope.time.isoformat(),
        envelope.correlation_id,
        envelope.causation_id,
        envelope.version,
        envelope.data,
    ]
    if envelope.hops:
        record.append(envelope.extensions | {"hops": envelope.hops})
    elif envelope.extensions:
        record.append(envelope.extensions)
    return compact(record)


def unpacked(parts: Mapping[str, str]) -> list[Envelope]:
    """Return the events of these parts: name → text."""
    return [_unpack(name, text) for name, text in parts.items()]


def by_type(envelopes: Iterable[Envelope]) -> dict[str, list[Envelope]]:
    """Group events by their type, in the given order."""
    arrived: dict[str, list[Envelope]] = defaultdict(list)
    for envelope in envelopes:
        arrived[envelope.type].append(envelope)
    return arrived


def _unpack(name: str, text: str) -> Envelope:
    event_id, source, subject, time, correlation_id, causation_id, version, data, *more = parsed(text)
    extensions: dict[str, Any] = more[0] if more else {}
    return Envelope(
        id=event_id,
        type=name.partition("/")[0],
        source=source,
        subject=subject,
        time=datetime.fromisoformat(time),
        correlation_id=correlation_id,
        causation_id=causation_id,
        version=version,
        hops=extensions.pop("hops", 0),
        data=data,
        extensions=extensions,
    )
