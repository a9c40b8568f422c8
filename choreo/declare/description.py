"""
Descriptions: what a service declares, as plain data. Tools read it in another process, without the service's code.

A description is written as JSON. Whoever reads it leaves out what it does not know, so that old and new versions of
choreo read each other's. This file needs no pydantic: see `choreo.declare.describing` for how a description is made.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any

from choreo.cached import cached_property

#: The version of the JSON. A change that older readers would misunderstand raises it.
FORMAT = 1

#: The fields of an event that a handler reads, by their names on the wire. None: any, or all of them.
Fields = tuple[str, ...] | None
#: Type → the versions of it that a handler reads, the oldest first. A type that is not there: any version.
Versions = Mapping[str, tuple[int, ...]]


def kind_in(join: Mapping[str, Any]) -> str:
    """What declares a handler with this description of `Join.described`: "join", "story" or "undo"."""
    return next((kind for kind in ("story", "undo") if kind in join), "join")


@dataclass(frozen=True)
class Undoing:
    """What a handler undoes, which is declared with ``undoes=``."""

    #: The name of the handler whose effect it undoes. "": the effect is that of another service.
    handler: str
    #: The types of the events that announce the effect.
    effects: tuple[str, ...]
    #: The types of the events that demand that it is undone.
    failures: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"handler": self.handler, "effects": list(self.effects), "failures": list(self.failures)}


@dataclass(frozen=True)
class ModelDescription:
    """A class that a service reads or writes events with: an event class, or a view."""

    #: The name of the class, which no other of the service has.
    name: str
    #: The JSON Schema of what it reads: see `choreo.schemas.shape`.
    read: Mapping[str, Any] = field(default_factory=dict)
    #: For an event class: its type and version, and the JSON Schema of what it writes. "", 0 and {} for a view.
    event: str = ""
    version: int = 0
    written: Mapping[str, Any] = field(default_factory=dict)
    #: The oldest version whose readers can read it as it is: see `Event`. 0: that of its own.
    readable_by: int = 0
    #: Its upcasters, as `Upcast.described` tells them, the oldest version first.
    upcasters: tuple[Mapping[str, Any], ...] = ()

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions of its type that it reads, the oldest first. () for a view."""
        return (*(int(step["from"]) for step in self.upcasters), self.version) if self.version else ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON. What a view has not is left out."""
        event = {"event": self.event, "version": self.version, "written": self.written}
        event |= {"readable_by": self.readable_by} if self.readable_by else {}
        event |= {"upcasters": [dict(step) for step in self.upcasters]} if self.upcasters else {}
        return {"name": self.name, "read": self.read} | (event if self.event else {})

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> "ModelDescription":
        """Read `to_dict`. Raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` for anything else."""
        return cls(
            str(read["name"]),
            dict(read.get("read", {})),
            str(read.get("event", "")),
            int(read.get("version", 0)),
            dict(read.get("written", {})),
            int(read.get("readable_by", 0)),
            tuple(map(dict, read.get("upcasters", ()))),
        )


@dataclass(frozen=True)
class HandlerDescription:
    """What one handler declares."""

    #: The name of the handler: ``<service>.<function>``.
    name: str
    #: The event types and patterns that it listens to, with those of ``unless``.
    hears: tuple[str, ...]
    #: The types that its return annotation names. None: it has no annotation, so it may announce any.
    announces: Fields = None
    #: The types that the return annotation of ``on_timeout`` names. None: it has none. () without an ``on_timeout``.
    on_timeout: Fields = ()
    #: Type or pattern → the fields that it reads.
    reads: Mapping[str, Fields] = field(default_factory=dict)
    #: The join, the story or the undoing as `Join.described` describes it; None for a handler of single events.
    join: Mapping[str, Any] | None = None
    #: The largest number of attempts: the first one, and the retries. 0: it is not known.
    attempts: int = 0
    #: Why its effect need not be undone, as its author says. "": nothing is said.
    no_undo: str = ""
    #: Type or pattern → the fields that its code uses, as far as its source tells: no more than it reads. A topic that
    #: is not there, such as of an older choreo: those that it reads.
    uses: Mapping[str, Fields] = field(default_factory=dict)
    #: The versions of events that it reads.
    versions: Versions = field(default_factory=dict)
    #: Type or pattern → the names of the classes that read it: see `ServiceDescription.models`. A type that is not
    #: there: it is read as it is, or its describer was an older choreo.
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: The types of other programs that its queue is bound to, too → the types under which it hears them.
    foreign: Mapping[str, str] = field(default_factory=dict)
    #: The most runs at a time, in all workers. 0: it has no limit of its own.
    concurrency: int = 0
    #: The most events that it is called with at once. 0: it is called with one.
    batch: int = 0
    #: The key whose events it handles one after another: "subject" or a field, with ", retries pass". "": none.
    sequential_by: str = ""
    #: Type → the field on the wire whose value is that key. Empty: it is the subject, or there is none.
    key_fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def service(self) -> str:
        """The name of its service."""
        return self.name.partition(".")[0]

    @property
    def kind(self) -> str:
        """What declares it: "on", "join", "story" or "undo" (``@app.on(..., undoes=...)``)."""
        return "on" if self.join is None else kind_in(self.join)

    @property
    def pace(self) -> tuple[str, ...]:
        """How its runs go together, for people: "in batches of 100". (): each is alone, and many go on at a time."""
        limit = f"{self.concurrency} at a time" if self.concurrency else ""
        batch = f"in batches of {self.batch}" if self.batch else ""
        series = f"in turn by {self.sequential_by}" if self.sequential_by else ""
        return tuple(filter(None, (limit, batch, series)))

    @property
    def undoes(self) -> Undoing | None:
        """What it undoes; None if it undoes nothing."""
        undo = self.join.get("undo") if self.join else None
        if undo is None:
            return None
        return Undoing(str(undo["handler"]), tuple(undo["effects"]), tuple(undo["failures"]))

    @property
    def parts(self) -> tuple[str, ...]:
        """The types of the events that a join or an undo waits for, or a story follows. () for one of single events."""
        return tuple(self.join.get("parts", ())) if self.join else ()

    @property
    def unless(self) -> tuple[str, ...]:
        """The types of the events that cancel a join."""
        return tuple(self.join.get("unless", ())) if self.join else ()

    def keys_of(self, kind: str) -> tuple[str, ...]:
        """The fields of a type that choreo itself reads: keys of joins, stories and series, and numbers of parts."""
        join = self.join or {}
        asked = [one for one in join.get("several", {}).values() if one.get("of") == kind and one.get("per")]
        keys = join.get("keys", {}).get(kind), self.key_fields.get(kind)
        return (*filter(None, keys), *(str(one["per"]) for one in asked))

    @property
    def shape(self) -> Any:
        """What other programs notice of it: equal for two versions that differ only in what they read or announce."""
        own = "optional", "retention", "versions"
        join = {name: value for name, value in (self.join or {}).items() if name not in own}
        order = self.concurrency, self.sequential_by
        return self.name, sorted(self.hears), json.dumps(join, sort_keys=True), order

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "hears": list(self.hears),
            "announces": _listed(self.announces),
            "on_timeout": _listed(self.on_timeout),
            "reads": {topic: _listed(fields) for topic, fields in self.reads.items()},
            "join": None if self.join is None else dict(self.join),
            "attempts": self.attempts,
            "versions": {kind: list(versions) for kind, versions in self.versions.items()},
            "models": {topic: list(names) for topic, names in self.models.items()},
            "uses": {topic: _listed(fields) for topic, fields in self.uses.items()},
            "undoes": None if self.undoes is None else self.undoes.to_dict(),
            "no_undo": self.no_undo,
            "foreign": dict(self.foreign),
            "concurrency": self.concurrency,
            "sequential_by": self.sequential_by,
            "key_fields": dict(self.key_fields),
            "batch": self.batch,
        }

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> "HandlerDescription":
        """Read `to_dict`. Raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` for anything else."""
        join = read.get("join")
        return cls(
            str(read["name"]),
            tuple(read.get("hears", ())),
            _tupled(read.get("announces")),
            _tupled(read.get("on_timeout", ())),
            {str(topic): _tupled(fields) for topic, fields in read.get("reads", {}).items()},
            None if join is None else dict(join),
            int(read.get("attempts", 0)),
            no_undo=str(read.get("no_undo", "")),
            uses={str(topic): _tupled(fields) for topic, fields in read.get("uses", {}).items()},
            versions={str(kind): tuple(map(int, versions)) for kind, versions in read.get("versions", {}).items()},
            models={str(topic): tuple(map(str, names)) for topic, names in read.get("models", {}).items()},
            foreign={str(name): str(kind) for name, kind in read.get("foreign", {}).items()},
            concurrency=int(read.get("concurrency", 0)),
            sequential_by=str(read.get("sequential_by", "")),
            key_fields={str(kind): str(name) for kind, name in read.get("key_fields", {}).items()},
            batch=int(read.get("batch", 0)),
        )


@dataclass(frozen=True)
class ServiceDescription:
    """What one service declares."""

    #: The name of the service.
    service: str
    handlers: tuple[HandlerDescription, ...] = ()
    #: The types that it announces outside of handlers, as ``Service(..., announces=...)`` says. None: it does not say.
    announces: Fields = None
    #: The types that the return annotation of its ``@app.dead_letter`` names. None: there is no annotation.
    on_dead_letter: Fields = ()
    #: The classes that it reads and announces events with, by name. None: an older choreo described it, and tells none.
    models: tuple[ModelDescription, ...] | None = ()

    @cached_property
    def digest(self) -> str:
        """The same for equal descriptions, and for no others."""
        return sha1(self.to_json().encode(), usedforsecurity=False).hexdigest()[:16]

    def handler(self, name: str) -> HandlerDescription | None:
        """The handler of this name; None if there is none."""
        return next((handler for handler in self.handlers if handler.name == name), None)

    def model(self, name: str) -> ModelDescription | None:
        """The class of this name; None if it is not described."""
        return next((model for model in self.models or () if model.name == name), None)

    def announcers(self) -> Iterator[tuple[str, str, Fields]]:
        """
        Iterate over all that announce: the name, how ("", "on_timeout", "dead_letter" or "declared"), and the types.

        The name is that of the handler, or of the service.
        """
        for handler in self.handlers:
            yield handler.name, "", handler.announces
            if handler.on_timeout != ():
                yield handler.name, "on_timeout", handler.on_timeout
        if self.on_dead_letter != ():
            yield self.service, "dead_letter", self.on_dead_letter
        if self.announces:
            yield self.service, "declared", self.announces

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "format": FORMAT,
            "service": self.service,
            "handlers": [handler.to_dict() for handler in self.handlers],
            "announces": _listed(self.announces),
            "on_dead_letter": _listed(self.on_dead_letter),
            "models": None if self.models is None else [model.to_dict() for model in self.models],
        }

    def to_json(self) -> str:
        """As a text in one line."""
        return json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ServiceDescription":
        """Read `to_json`, of this version or another. Raises `ValueError` for a text that is no description."""
        try:
            read = json.loads(text)
            return cls(
                str(read["service"]),
                tuple(map(HandlerDescription.from_dict, read.get("handlers", ()))),
                _tupled(read.get("announces")),
                _tupled(read.get("on_dead_letter", ())),
                models=_models(read.get("models")),
            )
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"this is no description of a service: {error!r}") from error


def _models(read: Any) -> tuple[ModelDescription, ...] | None:
    return None if read is None else tuple(map(ModelDescription.from_dict, read))


def _listed(names: Fields) -> list[str] | None:
    return None if names is None else list(names)


def _tupled(names: Any) -> Fields:
    return None if names is None else tuple(map(str, names))
