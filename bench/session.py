"""
Sessions: a session starts the workers of one side once, and runs its phases.

A phase is bounded by time, not by a number of events, so a slow side takes no longer than a fast one. It publishes for
``seconds``, and ends when every event is handled, or when none was handled for ``STALL_SECONDS``.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from bench import story
from bench.brokers import Broker, Redis
from bench.figures import percentile
from bench.marks import Gate, Marks, Tally
from bench.processes import PublisherProcess, SideError, session_cpu, start, stop, tail
from bench.setting import Setting
from bench.side import Side

#: A phase ends after so many seconds without a handled event.
STALL_SECONDS = 12.0
#: Seconds that the workers may take to start.
READY_SECONDS = 40.0
#: Warm-up events have the numbers below this one, and are not counted.
WARM = 100


@dataclass(frozen=True)
class Size:
    """The size of the measurements."""

    #: The publishing time of a phase.
    seconds: float = 0.7
    #: The most events of a phase.
    most: int = 2500
    #: The publishing time of the phase "quiet": so long that the slowest hundredth is more than one order.
    quiet_seconds: float = 10.0
    #: Orders per second in the phase "quiet".
    quiet_rate: float = 20.0
    #: Numbers of bound queues that do not match.
    others: tuple[int, ...] = (1, 100, 500)

    @property
    def capacity(self) -> int:
        """The number of events of all phases."""
        return WARM + 8 * self.most + int(self.quiet_rate * self.quiet_seconds)


@dataclass
class Row:
    """The results of one phase. ``problem`` is the error, if it failed."""

    scenario: str
    figures: dict[str, float] = field(default_factory=dict)
    tally: Tally = field(default_factory=lambda: Tally(0, 0, 0))
    problem: str = ""


class Session:
    """The workers, the publisher and the counters of one side."""

    def __init__(self, side: Side, broker: Broker, store: Redis, size: Size, directory: str) -> None:
        self.side, self.broker, self.size = side, broker, size
        self._store = store
        self.setting = Setting(
            side=side.name,
            module=side.module,
            approach=side.approach,
            pool=side.pool,
            concurrency=side.concurrency,
            prefetch=side.prefetch,
            broker_url=broker.url,
            redis_url=store.url,
            directory=directory,
            capacity=size.capacity,
            patience=side.patience,
            settings=side.settings,
        )
        self.setting.write()
        self.marks = {name: Marks(directory, name, size.capacity, create=True) for name in story.COUNTERS}
        self.gate = Gate(directory, create=True)
        self.workers: dict[str, Popen[str]] = {}
        self._next = WARM
        self.publisher = PublisherProcess(side.python, self.setting)

    # -- workers ---------------------------------------------------------------------------------------------------

    def start_worker(self, service: str) -> None:
        """Start the worker of a service."""
        command = self.side.worker_command(service)
        self.workers[service] = start(command, self.setting, f"{service}.log", env={"CHOREO_BENCH_SERVICE": service})

    def start_workers(self) -> None:
        """Start the workers of all services of the side."""
        for service in self.side.services:
            self.start_worker(service)

    def close(self) -> None:
        """Stop the workers and the publisher."""
        self.gate.open()
        stop([*self.workers.values()])
        self.publisher.close()

    def check_workers(self) -> None:
        """Raise `SideError`, with the end of its log, if a worker has ended."""
        for service, worker in self.workers.items():
            if worker.poll() is not None:
                raise SideError(f"the worker of {service} ended: {self._log(service)}")

    def _log(self, service: str) -> str:
        return tail(Path(self.setting.directory, f"{service}.log"))

    # -- counting --------------------------------------------------------------------------------------------------

    def take_numbers(self, count: int) -> int:
        """Reserve numbers for the events of a phase, and return the first."""
        first, self._next = self._next, self._next + count
        return first

    def wait(self, counters: Sequence[str], first: int, count: int, patience: float = STALL_SECONDS) -> None:
        """Wait until every handler has handled every event, or none was handled for ``patience`` seconds."""
        before, since = -1, time.monotonic()
        while (now := sum(self.marks[name].handled(first, count) for name in counters)) < count * len(counters):
            if now != before:
                before, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                return
            time.sleep(0.01)

    def tally(self, counters: Sequence[str], first: int, count: int) -> Tally:
        """Return the counts of these events, over these handlers."""
        return sum((self.marks[name].tally(first, count) for name in counters), Tally(0, 0, 0))

    def last(self, counters: Sequence[str], first: int, count: int) -> float:
        """Return when the last of these events was handled, in seconds of CLOCK_MONOTONIC."""
        return max(max(self.marks[name].times(first, count), default=0.0) for name in counters)

    # -- warming up ------------------------------------------------------------------------------------------------

    def warm_up(self, kinds: dict[str, tuple[str, ...]]) -> None:
        """Publish uncounted events until every handler has run once, and wait until none runs. Raises `SideError`."""
        deadline, number = time.monotonic() + READY_SECONDS, 0
        while not all(self.marks[name].handled(0, WARM) for names in kinds.values() for name in names):
            self.check_workers()
            if time.monotonic() > deadline:
                raise SideError(f"not every handler reacts after {READY_SECONDS:g} s; driver: {self._log('driver')}")
            for kind in kinds:
                self.publish(kind, number % WARM, 1)
            number += 1
            time.sleep(0.25)
        for kind in kinds:
            self.publish(kind, 0, min(20, WARM))
        before = -1
        while (now := sum(mark.handled(0, WARM) for mark in self.marks.values())) != before:
            before = now
            time.sleep(0.3)

    def publish(self, kind: str, first: int, most: int, seconds: float = 60.0, **more: Any) -> dict[str, Any]:
        """Let the publisher publish events, and return its answer."""
        return self.publisher.ask("publish", kind=kind, first=first, most=most, seconds=seconds, **more)

    # -- costs -----------------------------------------------------------------------------------------------------

    @contextmanager
    def costs(self, figures: dict[str, float]) -> Iterator[None]:
        """Context manager: adds the CPU seconds that the workers and the broker use in the block."""
        workers, servers = self._worker_cpu(), self._server_cpu()
        yield
        figures["worker_cpu"] = figures.get("worker_cpu", 0.0) + self._worker_cpu() - workers
        if servers is not None and (after := self._server_cpu()) is not None:
            figures["broker_cpu"] = figures.get("broker_cpu", 0.0) + after - servers

    def _server_cpu(self) -> float | None:
        """Return the CPU seconds of the broker, and of the Redis that is its store."""
        spent = [server.cpu() for server in dict.fromkeys((self.broker, self._store))]
        return sum(cpu for cpu in spent if cpu is not None) if None not in spent else None

    def _worker_cpu(self) -> float:
        return sum(session_cpu(worker) for worker in self.workers.values())


def run(side: Side, broker: Broker, store: Redis, size: Size, keep: bool = False) -> Iterator[Row]:
    """Run the phases of one side, and yield their rows. An error becomes a row with a problem."""
    directory = tempfile.mkdtemp(prefix="choreo-bench-")
    broker.wipe()
    store.wipe()
    session = None
    current = side.phases[0]
    try:
        session = Session(side, broker, store, size, directory)
        session.publisher.ask("prepare")
        if "publish" in side.phases:
            current = "publish"
            yield from _publish_alone(session)
        if "drain" in side.phases:
            current = "drain"
            yield from _drain(session)
        rest = [phase for phase in side.phases if phase in _PHASES]
        if rest:
            if not session.workers:
                session.start_workers()
            session.warm_up(_kinds(side))
        for current in rest:
            yield _PHASES[current](session)
    except SideError as error:
        yield Row(current, problem=str(error))
    finally:
        if session is not None:
            session.close()
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(Exception):
            store.wipe()


def _kinds(side: Side) -> dict[str, tuple[str, ...]]:
    """Return the events of the warm-up: type -> the handlers that must react."""
    kinds: dict[str, tuple[str, ...]] = {}
    if "join" in side.phases:
        kinds["pair"] = (story.SHIPPED,)
    if "flow" in side.phases:
        kinds["order.placed"] = story.FLOW
    if "steady" in side.phases:
        kinds["order.viewed"] = story.VIEWED
    return kinds


def _publish_alone(session: Session) -> Iterator[Row]:
    """Measure publishing without consumers: to one queue, and past queues that do not match."""
    session.publish(story.ARCHIVE_TYPE, 0, 30)
    scenarios = {"publish to 1 queue": 0}
    if session.side.approach != "hand" and session.side.pool == "solo":
        scenarios |= {f"publish past {others} queues": others for others in session.size.others}
    bound = 0
    for scenario, others in scenarios.items():
        if others:
            session.publisher.ask("bind others", first=bound, count=others - bound)
            bound = others
        session.publisher.ask("purge", kind=story.ARCHIVE_TYPE)
        yield _publish(session, scenario, story.ARCHIVE_TYPE, session.take_numbers(session.size.most))[0]


def _publish(session: Session, scenario: str, kind: str, first: int) -> tuple[Row, dict[str, Any]]:
    """Publish, and count the messages in the queues, if the side can."""
    row = Row(scenario)
    broker = session.broker.cpu()
    answer = session.publish(kind, first, session.size.most, session.size.seconds)
    _publishing(row, answer)
    if broker is not None and (after := session.broker.cpu()) is not None:
        row.figures["broker_us"] = (after - broker) / answer["count"] * 1e6
    row.tally = _waiting(session, kind, answer["count"])
    return row, answer


def _publishing(row: Row, answer: dict[str, Any]) -> None:
    took = answer["ended"] - answer["started"]
    row.figures |= {
        "per_second": answer["count"] / took,
        "wall_us": took / answer["count"] * 1e6,
        "cpu_us": answer["cpu"] / answer["count"] * 1e6,
    }


def _waiting(session: Session, kind: str, count: int) -> Tally:
    """Compare the lengths of the queues with the number of published events."""
    deadline = time.monotonic() + 5
    while True:
        lengths = session.publisher.ask("lengths", kind=kind)
        # RabbitMQ updates the length a moment after it confirms.
        if all(length == count for length in lengths.values()) or time.monotonic() > deadline:
            lost = sum(max(0, count - length) for length in lengths.values())
            more = sum(max(0, length - count) for length in lengths.values())
            return Tally(count * len(lengths), lost, more)
        time.sleep(0.1)


def _drain(session: Session) -> Iterator[Row]:
    """Measure how fast four services handle a backlog. All begin at the same moment."""
    size, side = session.size, session.side
    session.gate.close()
    first = session.take_numbers(size.most)
    published, answer = _publish(session, "publish to 4 queues", "order.viewed", first)
    yield published
    row = Row("drain")
    session.start_workers()
    deadline = time.monotonic() + READY_SECONDS
    while session.gate.waiting() < len(side.services):
        session.check_workers()
        if time.monotonic() > deadline:
            raise SideError(f"only {session.gate.waiting()} workers began: {session._log(side.services[0])}")
        time.sleep(0.01)
    # The slowest worker has started. Let the machine settle.
    time.sleep(0.3)
    spent: dict[str, float] = {}
    with session.costs(spent):
        started = time.monotonic()
        session.gate.open()
        session.wait(story.VIEWED, first, answer["count"])
    _handled(session, row, spent, story.VIEWED, first, answer["count"], started)
    yield row


def _handled(
    session: Session,
    row: Row,
    spent: dict[str, float],
    counters: Sequence[str],
    first: int,
    count: int,
    started: float,
    units: int | None = None,
) -> None:
    """Add the rate and the costs of a phase, per execution or, if ``units`` is given, per order or join."""
    units = units if units is not None else count * len(counters)
    took = session.last(counters, first, count) - started
    if took > 0:
        row.figures["per_second"] = units / took
    row.figures |= {f"{name}_us": seconds / units * 1e6 for name, seconds in spent.items()}
    # Repeated events arrive late.
    time.sleep(0.2)
    row.tally = session.tally(counters, first, count)


def _steady(session: Session) -> Row:
    return _run(session, "steady", "order.viewed", story.VIEWED, per_order=False)


def _join(session: Session) -> Row:
    return _run(session, "join", "pair", (story.SHIPPED,), per_order=True)


def _flow(session: Session) -> Row:
    return _run(session, "flow", "order.placed", story.FLOW, per_order=True)


def _run(session: Session, scenario: str, kind: str, counters: Sequence[str], *, per_order: bool) -> Row:
    """Measure handling while events are published as fast as possible."""
    row, size, spent = Row(scenario), session.size, dict[str, float]()
    first = session.take_numbers(size.most)
    with session.costs(spent):
        answer = session.publish(kind, first, size.most, size.seconds)
        session.wait(counters, first, answer["count"])
    units = answer["count"] if per_order else None
    _handled(session, row, spent, counters, first, answer["count"], answer["started"], units)
    row.figures["publish_cpu_us"] = answer["cpu"] / answer["count"] * 1e6
    return row


def _quiet(session: Session) -> Row:
    """Measure latency at a low rate: the time from publishing to the first handler, and to the notification."""
    row, size, spent = Row("quiet"), session.size, dict[str, float]()
    most = int(size.quiet_rate * size.quiet_seconds)
    first = session.take_numbers(most)
    with session.costs(spent):
        answer = session.publish("order.placed", first, most, 60.0, rate=size.quiet_rate)
        session.wait(story.FLOW, first, answer["count"])
    row.tally = session.tally(story.FLOW, first, answer["count"])
    for name, counter in (("hop", "restaurant.confirm"), ("flow", "notification.notify")):
        times = session.marks[counter].times(first, answer["count"])
        late = [(done - began) * 1e3 for began, done in zip(answer["times"], times, strict=True) if done]
        if late:
            row.figures |= {f"{name}_p50_ms": percentile(late, 0.5), f"{name}_p99_ms": percentile(late, 0.99)}
    # These costs include those of idle waiting.
    row.figures |= {f"{name}_us": seconds / answer["count"] * 1e6 for name, seconds in spent.items()}
    return row


_PHASES = {"steady": _steady, "join": _join, "flow": _flow, "quiet": _quiet}
