"""The sides: which way of building the services, on which broker, with which pool, and what it promises."""

import sys
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bench.setting import ROOT


class Publisher(Protocol):
    """What the ``Publisher()`` of a module in `bench.sides` or `bench.peers` can do. It has a process of its own."""

    def prepare(self) -> None:
        """Declare exchanges, queues and bindings, so that events can wait before any worker runs."""

    def publish_all(self, kind: str, numbers: Any) -> None:
        """Publish one event of this type per number, each as safely as the side promises."""

    def publish_pairs(self, kinds: tuple[str, str], numbers: Any) -> None:
        """Publish the two parts of a join per number."""

    def queues(self, kind: str) -> list[str]:
        """The queues that get a copy of this type; none where their length cannot be known."""

    def lengths(self, queues: list[str]) -> dict[str, int]:
        """How many messages wait in these queues."""

    def purge(self, queue: str) -> None:
        """Empty a queue."""


#: Promises of a side, from the weakest. Figures of different promises are not the same work.
PROMISES = {
    "once": "each effect once: inbox, and what a handler announces is committed with its outcome",
    "at least once": "delivered until acked; a crash can repeat an event, and what a handler announces can be lost",
    "unconfirmed": "as at least once, but a publish is not confirmed by the broker, so it can be lost",
    "lossy": "copies share one delivery tag: a crash or a stop can lose events, or repeat them to everybody",
    "split": "as at least once once sent, but one send per subscriber: a crash in between informs only some",
}


@dataclass(frozen=True)
class Side:
    """One column of the comparison."""

    approach: str
    broker: str
    pool: str
    promise: str
    module: str
    #: Name of its environment below .bench-envs; '' for this one.
    environment: str = ""
    concurrency: int = 1
    prefetch: int = 64
    #: What it takes part in.
    phases: tuple[str, ...] = ("publish", "drain", "steady", "join", "flow", "quiet")
    services: tuple[str, ...] = ("restaurant", "payment", "driver", "notification")
    #: Whether a second handling of an event breaks a promise.
    once: bool = False
    patience: int = 0

    @property
    def name(self) -> str:
        return "/".join(part for part in (self.approach, self.broker, self.pool) if part)

    @property
    def python(self) -> str:
        return str(ROOT / ".bench-envs" / self.environment / "bin" / "python") if self.environment else sys.executable

    def worker_command(self, service: str) -> list[str]:
        """The command that runs one service, which it also finds in CHOREO_BENCH_SERVICE."""
        if self.environment:
            return [self.python, "-m", "bench.worker", self.module, service]
        # A choreo service knows its own queues. Else everything is off that the side can do without; choreo's worker
        # events stay on, as they are by default.
        queues = [] if self.approach == "choreo" else ["-Q", service]
        command = [self.python, "-m", "celery", "-A", self.module, "worker", "-P", self.pool, *queues]
        return [*command, "-n", f"{service}@bench", "--without-gossip", "--without-mingle", "-l", "WARNING"]


#: Two worker threads: the machine has to be shared with three other workers, a publisher and the broker.
POOLS = {"solo": 1, "threads": 2, "prefork": 1}


def _own() -> list[Side]:
    sides = []
    for broker in ("redis", "rabbitmq"):
        safe = broker == "redis"
        for pool, concurrency in POOLS.items():
            base = Side("choreo", broker, pool, "once", "bench.sides.choreo_side", concurrency=concurrency, once=True)
            if pool != "solo":
                # Latency at a low rate takes time to measure, and says the same with every pool.
                base = replace(base, phases=base.phases[:-1])
            topic = replace(
                base,
                approach="topic",
                promise="lossy" if safe else "unconfirmed",
                module="bench.sides.celery_side",
                once=False,
            )
            sides += [base, topic, replace(topic, approach="hand", promise="split")]
    return sides


def _chords() -> list[Side]:
    side = Side("chord", "redis", "solo", "at least once", "bench.sides.celery_side", phases=("join",))
    side = replace(side, services=("driver",))
    return [side, replace(side, pool="prefork"), replace(side, broker="rabbitmq")]


def _peers() -> list[Side]:
    def peer(approach: str, broker: str, promise: str, **more: Any) -> Side:
        module = f"bench.peers.{approach.replace('-', '_')}"
        phases = ("drain", "steady", "join", "flow", "quiet")
        return replace(Side(approach, broker, "", promise, module, environment=approach, phases=phases), **more)

    return [
        peer("faststream", "redis", "at least once"),
        peer("faststream", "rabbitmq", "at least once"),
        peer("nameko", "rabbitmq", "at least once", prefetch=10),
        peer("dramatiq", "redis", "split", concurrency=2),
        peer("dramatiq", "rabbitmq", "split", concurrency=2),
        peer("celery-pubsub", "redis", "split", pool="prefork"),
        peer("celery-pubsub", "rabbitmq", "split", pool="prefork"),
    ]


OWN = _own()
CHORDS = _chords()
PEERS = _peers()


def find(name: str) -> Side:
    """The side of this name. Raises `KeyError`."""
    return {side.name: side for side in (*OWN, *CHORDS, *PEERS)}[name]
