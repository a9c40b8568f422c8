"""The parts of a join that is to run again, as the store keeps them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from choreo.declare.counts import counts_in
from choreo.declare.versions import as_described
from choreo.errors import EnvelopeError, UpcastError
from choreo.events.envelope import Envelope
from choreo.store.parts import name_of, packed


def parts_of(events: Sequence[Envelope], description: Mapping[str, Any]) -> dict[str, str]:
    """The parts: name → text, and the numbers of other parts that they tell."""
    several: Mapping[str, Any] = description.get("several", {})
    many = description["parts"] if description.get("rounds") else several
    parts = {name_of(event, many): packed(event) for event in events}
    return parts | {f"?{part}": str(count) for part, count in counts_of(events, description).items()}


def counts_of(events: Sequence[Envelope], description: Mapping[str, Any]) -> dict[str, int]:
    """How many events of each type these events ask for. A number that cannot be read is left out."""
    counts: dict[str, int] = {}
    several = description.get("several", {})
    for event in events if several else ():
        with suppress(EnvelopeError):
            counts |= counts_in(as_described(event, description), several)
    return counts


def told_by_code(events: Sequence[Envelope], description: Mapping[str, Any]) -> Envelope | None:
    """
    The first event that asks for a number of others which only code of the service can read: an upcaster is a function.

    The message to the join must carry it: the service reads the number when the event arrives.
    """
    several = description.get("several", {})
    telling = {one.get("of") for one in several.values()}
    for event in events:
        if event.type in telling:
            try:
                as_described(event, description)
            except UpcastError:
                return event
            except EnvelopeError:
                continue
    return None
