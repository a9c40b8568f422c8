"""The versions in which a join reads the fields of its events, as JSON: for tools, which have no classes of events."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from choreo.events.envelope import Envelope
from choreo.events.upcast import Upcast, data_for


@dataclass(frozen=True)
class _Reader:
    """What is told of a class of events, with the attributes of one."""

    event_type: str
    event_version: int
    event_upcasters: tuple[Upcast, ...]


def described(classes: Mapping[str, Any]) -> dict[str, Any]:
    """Type → version and upcasters, as JSON. Classes of version 1 are left out: nothing is to be told of them."""
    return {
        kind: {"version": event.event_version, "upcasters": [step.described() for step in event.event_upcasters]}
        for kind, event in classes.items()
        if event.event_version > 1
    }


def as_described(envelope: Envelope, description: Mapping[str, Any]) -> Envelope:
    """
    The event, with the data of the version whose fields this join reads: `Join.described`.

    Raises `VersionError` if that cannot be had of its version, and `UpcastError` if a function of the service makes it.
    """
    told = description.get("versions", {}).get(envelope.type)
    if told is None or told["version"] == envelope.version:
        return envelope
    reader = _Reader(envelope.type, told["version"], tuple(map(Upcast.from_described, told["upcasters"])))
    return replace(envelope, data=data_for(reader, envelope))
