"""
Descriptions: what a service declares, as plain data. Tools read it in another process, without the service's code.

A description is written as JSON. Whoever reads it leaves out what it does not know, so that old and new versions of
choreo read each other's. This file needs no pydantic: see `choreo.declare.describing` for how a description is made.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha1
from typing import Any

#: The version of the JSON. A change that older readers would misunderstand raises it.
FORMAT = 1

#: The fields of an event that a handler reads, by their names on the wire. None: any, or all of them.
Fields = tuple[str, ...] | None


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
    #: The join or story as `Join.described` describes it; None for a handler of single events.
    join: Mapping[str, Any] | None = None
    #: The largest number of attempts: the first one, and the retries. 0: it is not known.
    attempts: int = 0

    @property
    def service(self) -> str:
        """The name of its service."""
        return self.name.partition(".")[0]

    @property
    def kind(self) -> str:
        """What declares it: "on", "join" or "story"."""
        if self.join is None:
            return "on"
        return "story" if "story" in self.join else "join"

    @property
    def parts(self) -> tuple[str, ...]:
        """The types of the events that a join waits for, or a story follows. () for a handler of single events."""
        return tuple(self.join.get("parts", ())) if self.join else ()

    @property
    def unless(self) -> tuple[str, ...]:
        """The types of the events that cancel a join."""
        return tuple(self.join.get("unless", ())) if self.join else ()

    @property
    def shape(self) -> Any:
        """What other programs notice of it: equal for two versions that differ only in what they read or announce."""
        join = {name: value for name, value in (self.join or {}).items() if name not in ("optional", "retention")}
        return self.name, sorted(self.hears), json.dumps(join, sort_keys=True)

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

    @cached_property
    def digest(self) -> str:
        """The same for equal descriptions, and for no others."""
        return sha1(self.to_json().encode(), usedforsecurity=False).hexdigest()[:16]

    def handler(self, name: str) -> HandlerDescription | None:
        """The handler of this name; None if there is none."""
        return next((handler for handler in self.handlers if handler.name == name), None)

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
            )
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"this is no description of a service: {error!r}") from error


def _listed(names: Fields) -> list[str] | None:
    return None if names is None else list(names)


def _tupled(names: Any) -> Fields:
    return None if names is None else tuple(map(str, names))
