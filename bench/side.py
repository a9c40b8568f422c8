"""The sides of the comparison: an approach, a broker, a pool, and a promise each."""

import sys
from dataclasses import dataclass, replace
from typing import Any, Protocol

from bench.setting import ROOT


class Publisher(Protocol):
    """The interface of ``Publisher()`` in the modules of `bench.sides` and `bench.peers`. Has its own process."""

    def prepare(self) -> None:
        """Declare exchanges, queues and bindings, so that events can wait before any worker runs."""

    def publish_all(self, kind: str, numbers: Any) -> None:
        """Publish one event of this type for each number, as safely as the side promises."""

    def publish_pairs(self, kinds: tuple[str, str], numbers: Any) -> None:
        """Publish the two parts of a join for each number."""

    def queues(self, kind: str) -> list[str]:
        """Return the queues that get a copy of this type. Empty if their length is not known."""

    def lengths(self, queues: list[str]) -> dict[str, int]:
        """Return the number of messages in each queue."""

    def purge(self, queue: str) -> None:
        """Empty a queue."""


#: The promises. Sides with different promises do not do the same work.
PROMISES = {
    "once": "each effect once: an inbox, and announced events are committed with the outcome of the handler",
    "at least once": "delivered until acked; a crash can repeat an event, and lose what its handler announces",
    "unconfirmed": "as at least once, but the broker does not confirm a publish, so it can be lost",
    "lossy": "copies share one delivery tag: a crash or a stop can lose events, or repeat them to everybody",
    "split": "as at least once for each send, but one send per subscriber: a crash in between reaches only some",
}


#: choreo with other settings, to measure what a feature costs.
VARIANTS: dict[str, dict[str, Any]] = {"unrecorded": {"choreo_record_length": 0}, "info": {}}
#: Variant → the log level of its workers. At INFO there is a line for each run. Celery's default is WARNING.
LOG_LEVELS = {"info": "INFO"}
#: Celery with other settings: with confirmed publishes it promises what peers on RabbitMQ promise.
CELERY_VARIANTS: dict[str, dict[str, Any]] = {"confirmed": {"broker_transport_options": {"confirm_publish": True}}}


@dataclass(frozen=True)
class Side:
    """One side of the comparison."""

    #: "choreo", "topic", "hand", "chord", or the name of a peer.
    approach: str
    broker: str
    pool: str
    #: A key of PROMISES.
    promise: str
    #: The module with its `Publisher` and its services.
    module: str
    #: The name of its environment in .bench-envs; '' for the one that runs the benchmark.
    environment: str = ""
    concurrency: int = 1
    prefetch: int = 64
    #: The phases that it runs.
    phases: tuple[str, ...] = ("publish", "drain", "steady", "join", "flow", "quiet")
    services: tuple[str, ...] = ("restaurant", "payment", "driver", "notification")
    #: True if a repeated event breaks its promise.
    once: bool = False
    patience: int = 0
    #: A key of VARIANTS, or of CELERY_VARIANTS; '' for choreo or Celery as it comes.
    variant: str = ""

    @property
    def name(self) -> str:
        """The name in the tables: approach/broker/pool, or approach-variant/broker/pool."""
        approach = f"{self.approach}-{self.variant}" if self.variant else self.approach
        return "/".join(part for part in (approach, self.broker, self.pool) if part)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of choreo, or of Celery, that differ from their defaults."""
        return (VARIANTS | CELERY_VARIANTS).get(self.variant, {})

    @property
    def python(self) -> str:
        """The path of its Python."""
        return str(ROOT / ".bench-envs" / self.environment / "bin" / "python") if self.environment else sys.executable

    def worker_command(self, service: str) -> list[str]:
        """Return the command that runs one service. Its environment names the service in CHOREO_BENCH_SERVICE."""
        if self.environment:
            return [self.python, "-m", "bench.worker", self.module, service]
        # A choreo service knows its own queues. Optional features are off on every side, except choreo's worker events,
        # which are on by default.
        queues = [] if self.approach == "choreo" else ["-Q", service]
        command = [self.python, "-m", "celery", "-A", self.module, "worker", "-P", self.pool, *queues]
        return [
            *command,
            "-n",
            f"{service}@bench",
            "--without-gossip",
            "--without-mingle",
            "-l",
            LOG_LEVELS.get(self.variant, "WARNING"),
        ]


#: Pool → processes or threads per worker. Few: three other workers, a publisher and the broker share the machine.
POOLS = {"solo": 1, "threads": 2, "prefork": 1}


def _own() -> list[Side]:
    sides = []
    for broker in ("redis", "rabbitmq"):
        safe = broker == "redis"
        for pool, concurrency in POOLS.items():
            base = Side("choreo", broker, pool, "once", "bench.sides.choreo_side", concurrency=concurrency, once=True)
            if pool != "solo":
                # Latency at a low rate takes long to measure, and is about the same with every pool.
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


def _confirmed() -> list[Side]:
    own = [side for side in OWN if side.broker == "rabbitmq" and side.pool == "solo" and side.approach != "choreo"]
    promises = {"topic": "at least once", "hand": "split"}
    return [replace(side, variant="confirmed", promise=promises[side.approach]) for side in own]


def _costs() -> list[Side]:
    names = ("choreo/redis/solo", "choreo/redis/threads", "choreo/redis/prefork", "choreo/rabbitmq/solo")
    own = [side for side in OWN if side.name in names]
    return [side for base in own for side in (base, *(replace(base, variant=variant) for variant in VARIANTS))]


OWN = _own()
COSTS = _costs()
CHORDS = _chords()
PEERS = _peers()
#: Celery with confirms: the measure on RabbitMQ.
CONFIRMED = _confirmed()


def find(name: str) -> Side:
    """Return the side with this name. Raises `KeyError` when there is none."""
    return {side.name: side for side in (*OWN, *COSTS, *CHORDS, *PEERS, *CONFIRMED)}[name]
