"""How many events of each type a join asks for: by its declaration, and by the events that have arrived."""

from collections.abc import Mapping
from typing import Any

from choreo.errors import EnvelopeError
from choreo.events.envelope import Envelope

#: The parts that consist of several events, as in `Join.described`: type → ``{"times": number}``; or ``{"per": field,
#: "of": type}``, if a field of another event (by its name on the wire) holds the number.
Asked = Mapping[str, Mapping[str, Any]]


def counts_in(envelope: Envelope, asked: Asked) -> dict[str, int]:
    """Return how many events of other types this event asks for. Raises `EnvelopeError` if it holds no number."""
    return {part: count_in(envelope, one["per"], part) for part, one in asked.items() if one.get("of") == envelope.type}


def needed(part: str, asked: Asked, counts: Mapping[str, int]) -> int | None:
    """Return how many events of this type the join needs; None if the event that holds the number is missing."""
    one = asked.get(part)
    return 1 if one is None else one.get("times") or counts.get(part)


def count_in(envelope: Envelope, name: str, part: str) -> int:
    """
    Return the number in this field, or the length of the list.

    Raises `EnvelopeError` when the field holds neither. ``part`` is the counted event type, for the message.
    """
    value = envelope.data.get(name)
    if isinstance(value, list):
        return len(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise EnvelopeError(f"{name} of {envelope} is {value!r}, which does not say how many of {part} there will be")
