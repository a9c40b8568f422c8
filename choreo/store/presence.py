"""Presence: the programs of a service that live, or have lived, and what they declare."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

#: The most programs of one service that are remembered after their end: the last one of each node.
MOST_GONE = 20
#: The most types of events that are remembered as announced outside of handlers.
MOST_SEEN = 1000
#: Seconds after which a service of which nothing was seen is forgotten, and so is a type that it has announced.
SEEN_FOR = 90 * 86_400.0


@dataclass(frozen=True)
class Program:
    """
    A process that runs as a service: a worker, or a program that only publishes.

    A worker tells this when it starts and every 15 seconds. A program without a worker tells it when it announces the
    first event of a type; then it counts as gone, since nobody knows how long it lives.
    """

    #: The id of the process. No other has it.
    name: str
    #: The name of the worker's node: ``payment@payment.host``. For a program without a worker: ``publisher@host``.
    node: str
    host: str = ""
    pid: int = 0
    #: The version of the service's code: the setting ``choreo_version``, or that of its distribution. "": unknown.
    version: str = ""
    #: The version of choreo.
    choreo: str = ""
    #: The pool, and how many events it handles at once. "" and 0 for a program without a worker.
    pool: str = ""
    concurrency: int = 0
    #: The names on the broker of the queues that it consumes now, also those of paused handlers.
    queues: tuple[str, ...] = ()
    #: Those of these queues that it does not consume because their handlers are paused.
    paused: tuple[str, ...] = ()
    #: The file that declares the service.
    file: str = ""
    #: The module that makes the service, as ``celery -A`` takes it.
    module: str = ""
    #: The time at which it started, in seconds since 1970.
    since: float = 0.0
    #: The digest of its description: see `Presence.descriptions`.
    digest: str = ""
    #: The time of its last sign of life, in seconds since 1970. The store sets it.
    seen: float = 0.0
    #: True if it counts as alive. The store sets it.
    is_alive: bool = False

    @property
    def is_worker(self) -> bool:
        """False for a program that only publishes."""
        return bool(self.pool)

    def to_json(self) -> str:
        """As a text in one line, without what the store sets."""
        own = asdict(replace(self, queues=tuple(sorted(self.queues)), paused=tuple(sorted(self.paused))))
        return json.dumps({name: own[name] for name in own.keys() - _STORES}, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, name: str, seen: float, is_alive: bool) -> "Program":
        """Read `to_json`, also that of another version of choreo. What cannot be read is left out."""
        try:
            read = json.loads(text)
        except (ValueError, RecursionError):
            read = None
        known: dict[str, Any] = {}
        for one in fields(cls) if isinstance(read, dict) else ():
            value, usual = read.get(one.name), one.default
            if isinstance(usual, tuple) and isinstance(value, list):
                known[one.name] = tuple(map(str, value))
            elif isinstance(usual, float) and isinstance(value, (int, float)):
                known[one.name] = float(value)
            elif type(value) is type(usual):
                known[one.name] = value
        node = read.get("node") if isinstance(read, dict) else None
        known.update(name=name, node=str(node or name), seen=seen, is_alive=is_alive)
        return cls(**known)


_STORES = {"seen", "is_alive"}


@dataclass(frozen=True)
class Presence:
    """What the register knows of one service."""

    #: The workers that live, in the order of their start.
    workers: Sequence[Program] = ()
    #: The programs that live no more, or only publish: the last one of each node, the one that was seen last first.
    gone: Sequence[Program] = ()
    #: Digest → the description as JSON: see `choreo.declare.description`. Those of the programs above.
    descriptions: Mapping[str, str] = field(default_factory=dict)
    #: The types that its programs have announced outside of handlers → the time at which one last began to.
    announced: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, programs: Sequence[Program], descriptions: Mapping[str, str], announced: Mapping[str, float]
    ) -> "Presence":
        """The presence of these programs, alive or gone, in order."""
        return cls(
            sorted((one for one in programs if one.is_alive), key=lambda one: (one.since, one.name)),
            sorted((one for one in programs if not one.is_alive), key=lambda one: (-one.seen, one.name)),
            dict(descriptions),
            dict(sorted(announced.items())),
        )

    @property
    def seen(self) -> float:
        """The time of the last sign of life of any of its programs; 0 if there never was one."""
        return max((program.seen for program in (*self.workers, *self.gone)), default=0.0)

    @property
    def current(self) -> list[str]:
        """
        The descriptions that hold now, each once, that of the newest worker first.

        If no worker lives, it is that of the last one; if there never was one, that of the program that was seen last,
        which need not import the modules of the handlers. Several mean that workers with different declarations run as
        one service.
        """
        last = [program for program in self.gone if program.is_worker] or [*self.gone]
        programs = [*reversed(self.workers)] or last[:1]
        digests = dict.fromkeys(program.digest for program in programs)
        return [self.descriptions[digest] for digest in digests if digest in self.descriptions]
