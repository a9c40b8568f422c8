"""The register: which handlers exist, and which live worker binds which queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from choreo.events.patterns import Binding


@dataclass(frozen=True, slots=True)
class Declared:
    """The answer of `Register.declare`."""

    #: True if this worker was known as alive. If not, others may have removed its bindings meanwhile.
    known: bool = False
    #: Bindings that were made once, and that no live worker declares.
    stale: Sequence[Binding] = ()
    #: Removed bindings that a worker has declared meanwhile, and that must be made again.
    again: Sequence[Binding] = ()
    #: Queues that were declared once, and that no live worker declares.
    orphans: Sequence[str] = ()


class Register(Protocol):
    """Handlers and live workers. Every method is one atomic decision."""

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

    def forget_queue(self, service: str, queue: str) -> None:
        """Forget a queue that no longer exists."""
