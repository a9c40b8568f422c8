"""The register: which handlers exist, which live worker binds which queue, and who is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from choreo.events.patterns import Binding
from choreo.store.deployments import Retirement
from choreo.store.presence import Presence, Program

#: The most types of unheard events that are counted. A program may make up a type for each event.
MOST_UNHEARD = 1000


@dataclass(frozen=True, slots=True)
class Declared:
    """The answer of `Register.declare`."""

    #: True if this worker was known as alive. If not, others may have removed its bindings meanwhile.
    known: bool = False
    #: Bindings that were made once, and that no live worker declares.
    stale: Sequence[Binding] = ()
    #: Removed bindings that a worker has declared meanwhile, and that must be made again.
    to_restore: Sequence[Binding] = ()
    #: The worker's queues whose handlers are being retired. It works them off, and they get no more events.
    drained: Sequence[str] = ()
    #: The handlers that were retired and that this worker, which has just started, has called back.
    called_back: Sequence[Retirement] = ()
    #: Seconds to wait before this call is made again: one of its queues is just being deleted. Nothing was reported.
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Listening:
    """The queues of one service that events reach."""

    #: Bindings that were made once and not removed. A service that is stopped keeps its own.
    bindings: frozenset[Binding]
    #: The queues that each live worker declares: one set per worker.
    workers: Sequence[frozenset[str]] = field(default_factory=list)

    @property
    def queues(self) -> frozenset[str]:
        """The queues that have a binding."""
        return frozenset(queue for queue, _ in self.bindings)


@dataclass(frozen=True, slots=True)
class UnheardType:
    """The events of one type that reached no queue. A handler may listen to it by now."""

    count: int
    #: When the last of them was announced: seconds since 1970, by the store's clock.
    last: float
    #: The service that announced it.
    source: str


class Register(Protocol):
    """Handlers, live workers, and the programs of each service. Every method is one atomic decision."""

    def register(self, handlers: Sequence[str]) -> None:
        """Record these handlers, so that their dead letters are found even when their code is gone."""

    def handlers(self) -> list[str]:
        """Every handler that was ever registered, sorted."""

    def declare(
        self, service: str, worker: str, bindings: Sequence[Binding], ttl: float, removed: Sequence[Binding] = ()
    ) -> Declared:
        """
        Report that a worker lives for the next ``ttl`` seconds and declares these bindings; 0 reports its end.

        Then find the bindings that may be removed. Call again with ``removed`` once the broker has removed them: a
        worker may have declared one of them in between, and it must be made again.
        """

    def declared(self, service: str) -> dict[str, list[Binding]]:
        """The live workers of a service, and the bindings that each declares."""

    def listening(self, service: str) -> Listening | None:
        """The queues of this service that events reach; None if no worker of it has ever called `declare`."""

    def report(
        self, service: str, program: Program, description: str, ttl: float, announced: Sequence[str] = ()
    ) -> None:
        """
        Report that this program lives for the next ``ttl`` seconds, and declares this; 0 if it only publishes.

        ``description`` is a text that its `Program.digest` names. ``announced`` are the types that it has begun to
        announce outside of handlers. What is not needed any more is forgotten: see `Presence`.
        """

    def leave(self, service: str, program: str) -> None:
        """Report that this program ends. Its record stays, until the next program of its node reports."""

    def presence(self, service: str) -> Presence:
        """The programs of a service, and what they declare. Empty for a service that is not known."""

    def workers(self, service: str) -> Sequence[Program]:
        """The workers of a service that live, in the order of their start."""
        return self.presence(service).workers

    def services(self) -> list[str]:
        """Every service that ever had a worker, or announced an event, sorted."""

    def note_unheard(self, source: str, counts: Mapping[str, int]) -> None:
        """Count events of a service that reached no queue: type → how many. `MOST_UNHEARD` types are counted."""

    def unheard(self) -> dict[str, UnheardType]:
        """The types of events that reached no queue, sorted."""
