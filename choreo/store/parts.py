"""The parts of a join as the store keeps them: their names and their texts."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from choreo.events.envelope import Envelope
from choreo.events.message import compact, parsed


def unit_of(key: str) -> str:
    """The unit of the join with this key."""
    return f"join:{key}"


def key_of(unit: str) -> str | None:
    """The key of a join from its unit; None for a unit that is no join."""
    return unit.removeprefix("join:") if unit.startswith("join:") else None


def name_of(envelope: Envelope, several: Iterable[str]) -> str:
    """The name of a part: its type; type/id if the join needs several events of that type."""
    return f"{envelope.type}/{envelope.id}" if envelope.type in several else envelope.type


def packed(envelope: Envelope) -> str:
    """
    A part as text. The same event always gives the same text.

    The text is short, since there may be millions of parts: a list of the attributes without their names, and without
    the type, which is in the part's name.
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
    if envelope.extensions:
        record.append(envelope.extensions)
    return compact(record)


def unpacked(parts: Mapping[str, str]) -> list[Envelope]:
    """The events of these parts: name → text."""
    return [_unpack(name, text) for name, text in parts.items()]


def by_type(envelopes: Iterable[Envelope]) -> dict[str, list[Envelope]]:
    """Type → the events of that type, in their order."""
    arrived: dict[str, list[Envelope]] = defaultdict(list)
    for envelope in envelopes:
        arrived[envelope.type].append(envelope)
    return arrived


def _unpack(name: str, text: str) -> Envelope:
    event_id, source, subject, time, correlation_id, causation_id, version, data, *extensions = parsed(text)
    return Envelope(
        id=event_id,
        type=name.partition("/")[0],
        source=source,
        subject=subject,
        time=datetime.fromisoformat(time),
        correlation_id=correlation_id,
        causation_id=causation_id,
        version=version,
        data=data,
        extensions=extensions[0] if extensions else {},
    )
