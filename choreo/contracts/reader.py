"""Readers of an event: the handlers that hear it, and what each reads of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain

from choreo.cached import cached_property
from choreo.contracts.contract import Contract
from choreo.declare.description import Fields, HandlerDescription, ModelDescription, ServiceDescription
from choreo.events.patterns import matches
from choreo.schemas.clash import Clash, Kind
from choreo.schemas.fit import clashes


class Answer(StrEnum):
    """Whether a reader reads what is written."""

    YES = "yes"
    NO = "no"
    #: The description of the reader does not tell: it is of an older choreo.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Judgement:
    """How a reader reads one version of an event."""

    answer: Answer
    #: What it does not take, and the fields whose default it reads silently.
    clashes: tuple[Clash, ...] = ()
    #: The versions that it reads, if that of the event is none of them; () if it is.
    versions: tuple[int, ...] = ()
    #: The version from which its upcasters make its own; 0 if it reads the version as it is.
    upcast_from: int = 0

    @property
    def fatal(self) -> list[Clash]:
        """What makes the event a dead letter of this reader."""
        return [clash for clash in self.clashes if clash.is_fatal]


@dataclass(frozen=True)
class Reader:
    """A handler that reads events of one type."""

    handler: HandlerDescription
    service: ServiceDescription
    event: str
    #: The type or pattern by which it hears the event.
    topic: str
    #: The version of the service that runs, and the number of its workers. "" and 0 for code.
    release: str = ""
    workers: int = 0

    @property
    def name(self) -> str:
        """The name of the handler."""
        return self.handler.name

    @property
    def fields(self) -> Fields:
        """The names on the wire that it reads of the event. None: any, or all of them."""
        return self.handler.reads.get(self.topic, ())

    @cached_property
    def models(self) -> Sequence[ModelDescription]:
        """The classes that read the event."""
        found = map(self.service.model, self.handler.models.get(self.topic, ()))
        return [model for model in found if model is not None]

    @property
    def is_view(self) -> bool:
        """True if it reads the event with a class of its own, which has only the fields that it needs."""
        return bool(self.models) and not any(model.event for model in self.models)

    @property
    def told(self) -> str:
        """The handler for people: ``loyalty.award_points (view)``."""
        said = [f"{self.release or 'unknown version'} runs"] * bool(self.workers) + ["view"] * self.is_view
        return f"{self.name} ({', '.join(said)})" if said else self.name

    def reads(self, contract: Contract) -> Judgement:
        """Judge whether it reads what this version's publishers write."""
        if self.service.models is None:
            return self._by_names(contract)
        versions = self.handler.versions.get(self.event, ())
        if versions and contract.version not in versions and not self._is_readable(contract, versions):
            return Judgement(Answer.NO, versions=tuple(versions))
        if (step := self._upcast(contract)) is not None:
            return Judgement(Answer.YES, upcast_from=step)
        readers = [model for model in self.models if not model.event or contract.version in model.versions]
        found = [clashes(contract.schema, model.read) for model in readers or self.models]
        missing = _missing(self.handler.keys_of(self.event), contract)
        told = tuple(dict.fromkeys([*chain.from_iterable(found), *missing]))
        return Judgement(Answer.NO if any(clash.is_fatal for clash in told) else Answer.YES, told)

    def _is_readable(self, contract: Contract, versions: Sequence[int]) -> bool:
        """True if an older class can read it as it is, as its publisher says."""
        return 0 < contract.model.readable_by <= max(versions) < contract.version

    def _upcast(self, contract: Contract) -> int | None:
        """The version of the event, if upcasters make of it what the handler reads; else None."""
        classes = [model for model in self.models if model.event == self.event]
        if not classes and self.handler.versions.get(self.event):
            # A view reads what the class makes that the handler listens to.
            classes = [model for model in self.service.models or () if model.event == self.event]
        if any(model.version == contract.version for model in classes):
            return None
        return contract.version if any(contract.version in model.versions for model in classes) else None

    def _by_names(self, contract: Contract) -> Judgement:
        """Of a handler that an older choreo has described, only the names of the fields are known."""
        if self.fields == ():
            return Judgement(Answer.YES)
        return Judgement(Answer.UNKNOWN, tuple(_missing(self.fields or (), contract)))


def _missing(names: Iterable[str], contract: Contract) -> Iterator[Clash]:
    """A clash for each of these fields that is not written."""
    written = contract.schema.get("properties", {})
    return (Clash(Kind.MISSING, name, is_total=True) for name in names if name not in written)


def readers_of(event_type: str, services: Iterable[ServiceDescription]) -> Iterator[Reader]:
    """The handlers that hear events of this type."""
    for service in services:
        for handler in service.handlers:
            # Its own type before a pattern that matches it, too: the queue gets the event once.
            topics = sorted(
                (one for one in handler.hears if matches(one, event_type)), key=lambda one: one != event_type
            )
            if topics:
                yield Reader(handler, service, event_type, topics[0])


def running_readers(event_type: str, running: Iterable[tuple[ServiceDescription, str, int]]) -> Iterator[Reader]:
    """The same of what runs: descriptions, each with the version of its service and the number of its workers."""
    for service, release, workers in running:
        for reader in readers_of(event_type, [service]):
            yield replace(reader, release=release, workers=workers)
