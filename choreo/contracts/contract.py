"""Contracts: the events and the services of one state of the code, as plain data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from choreo.declare.description import ModelDescription, ServiceDescription
from choreo.errors import ChoreoError


class ContractError(ChoreoError):
    """Contracts cannot be read or compared. The message says what is missing, and the way out."""


@dataclass(frozen=True)
class Contract:
    """One version of an event: what its publishers write."""

    #: Its class: with a type, a version and the JSON Schema of what it writes.
    model: ModelDescription
    #: The docstring of its class; "" if it has none.
    doc: str = ""
    #: Where its class is, such as ``shop/events.py:12``. "" if only a contract file is known.
    place: str = ""

    @property
    def type(self) -> str:
        """The type of the event."""
        return self.model.event

    @property
    def version(self) -> int:
        """The version of its fields, from 1."""
        return self.model.version

    @property
    def schema(self) -> Mapping[str, Any]:
        """The JSON Schema of what is written."""
        return self.model.written


@dataclass(frozen=True)
class Contracts:
    """The events and the services of one state of the code."""

    #: Where they are from, for people: ``main``, ``this checkout``.
    origin: str
    events: Sequence[Contract] = ()
    services: Sequence[ServiceDescription] = ()
    #: (type, version) → the place of the upcaster that takes this version: ``shop/events.py:14``.
    upcasters: Mapping[tuple[str, int], str] = field(default_factory=dict)
    #: Service → the version of its code. A service whose version is not known is not there.
    releases: Mapping[str, str] = field(default_factory=dict)

    @property
    def types(self) -> list[str]:
        """The types of the events, sorted."""
        return sorted({contract.type for contract in self.events})

    def of(self, event_type: str) -> list[Contract]:
        """The versions of a type, the oldest first."""
        return sorted((one for one in self.events if one.type == event_type), key=lambda one: one.version)

    def newest(self, event_type: str) -> Contract | None:
        """The newest version of a type: the one that is announced. None if there is none."""
        return next(reversed(self.of(event_type)), None)

    def announcers(self, event_type: str) -> Iterator[str]:
        """The handlers and services that say that they announce this type."""
        yield from announcers_among(self.services, event_type)


def announcers_among(services: Iterable[ServiceDescription], event_type: str) -> Iterator[str]:
    """The handlers and services that say that they announce this type."""
    for service in services:
        for name, _, types in service.announcers():
            if event_type in (types or ()):
                yield name


def contracts_in(service: ServiceDescription) -> Iterator[Contract]:
    """The events of which a service describes the class."""
    for model in service.models or ():
        if model.event and model.written:
            yield Contract(model)
