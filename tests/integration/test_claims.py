"""What a worker takes is claimed for it: with real workers that are killed, stopped and frozen, on every pool."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import redis

from choreo import Envelope, Reason, Service
from tests.contract.redis_broker import proxy_to
from tests.integration.claims_app import LabelPrinted, OrderCancelled, OrderPacked, OrderPlaced
from tests.nursery import Process, start_worker
from tests.waiting import DEADLINE, eventually

ROOT = Path(__file__).parents[2]
POOLS = [("prefork", 2), ("threads", 2), ("solo", 1)]
ALONE = [("prefork", 1), ("threads", 1), ("solo", 1)]
#: Pools with the fast lane, and one of each kind (in processes of its own, and in the worker's) without it.
BOTH_WAYS = [*((*pool, True) for pool in POOLS), ("prefork", 2, False), ("solo", 1, False)]
BOTH_WAYS_ALONE = [*((*pool, True) for pool in ALONE), ("prefork", 1, False), ("solo", 1, False)]
HOST = re.escape(socket.gethostname())
#: Seconds until a silent worker counts as dead.
TIMEOUT = 2.0


class Payment:
    """The service, its queue and its workers, seen from outside."""

    def __init__(self, url: str, namespace: str, directory: Path) -> None:
        self.url, self.namespace, self.directory = url, namespace, directory
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True)
        self.app = Service("payment", broker=url, config={"choreo_namespace": namespace}, set_as_current=False)
        self.app.on(OrderPlaced, name="charge")(_unused)
        self.app.join(OrderPacked, LabelPrinted, unless=OrderCancelled, name="ship")(_unused_too)
        self.workers: list[Process] = []
        with self.app.connection_for_write() as connection:
            for queue in self.app.amqp.queues.values():
                queue(connection.default_channel).declare()

    def start(
        self,
        pool: str,
        concurrency: int = 1,
        timeout: float = TIMEOUT,
        lease: float = 3,
        port: int = 0,
        lane: bool = True,
    ) -> Any:
        number = len(self.workers)
        settings = {
            "choreo_namespace": self.namespace,
            "choreo_fast_lane": lane,
            "worker_prefetch_multiplier": 64,
            "choreo_shutdown_timeout": DEADLINE,
            "broker_transport_options": {"consumer_timeout": timeout},
        }
        options = ["-l", "INFO", "-P", pool, "-c", str(concurrency), "-n", f"w{number}@%h"]
        options += ["--without-mingle", "--without-gossip"]
        environment = {
            "CHOREO_TEST_SETTINGS": json.dumps(settings),
            "CHOREO_TEST_BROKER": re.sub(r":\d+/", f":{port}/", self.url) if port else self.url,
            "CHOREO_TEST_NOTES": self.url,
            "CHOREO_TEST_LEASE": str(lease),
            "PYTHONWARNINGS": "ignore",
        }
        worker = start_worker(
            "tests.integration.claims_app", *options, log=self._log(number), environment=os.environ | environment
        )
        self.workers.append(worker)
        return worker

    def ready(self, *workers: Any) -> None:
        for worker in workers:
            number = self.workers.index(worker)
            eventually(lambda n=number: "ready." in self.log(n), reason=f"worker {number} is ready")

    def _log(self, number: int) -> Path:
        return self.directory / f"worker{number}.log"

    def log(self, number: int) -> str:
        return self._log(number).read_text()

    def place(self, *orders: OrderPlaced, copies: int = 1) -> None:
        for order in orders:
            self.app.publisher.announce([self.envelope(order)] * copies)

    def envelope(self, event: Any) -> Envelope:
        return Envelope(
            id=f"{self.namespace}-{event.number}",
            type=event.event_type,
            source="tests",
            subject=f"ORD-{event.number}",
            time=datetime.now(UTC),
            correlation_id="story",
            data=event.model_dump(),
        )

    def open(self) -> None:
        """Let the handlers go on that wait."""
        self.redis.set(f"{self.namespace}:open", 1)

    def noted(self, what: str) -> list[int]:
        notes = map(json.loads, self.redis.lrange(f"{self.namespace}:notes", 0, -1))
        return [number for kind, number in notes if kind == what]

    def settled(self, timeout: float = DEADLINE) -> None:
        """Wait until nothing is queued, in flight or scheduled any more."""
        left = {"": 0}

        def is_settled() -> bool:
            left.clear()
            left.update(self.left())
            return not left

        try:
            eventually(is_settled, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; left: {left}") from None

    def left(self) -> dict[str, int]:
        left = {}
        for handler in ("payment.charge", "payment.ship"):
            left |= {
                f"{handler} queued": self.redis.llen(f"{self.namespace}.{handler}"),
                f"{handler} scheduled": self.app.runtime.store.backlog(handler).total,
                # A join, and what became a dead letter, is remembered there as done.
                f"{handler} claimed": sum(1 for unit in self._units(handler) if not self.redis.hexists(unit, "done")),
            }
        return {what: count for what, count in left.items() if count}

    def _units(self, handler: str) -> list[str]:
        return list(self.redis.scan_iter(f"choreo:{self.namespace}:{{{handler}}}:unit:*"))

    def written_to_children(self) -> int:
        """How many events the only worker, of the prefork pool, has handed to its children so far."""
        answers = self.app.control.inspect(timeout=1).stats() or {}
        return sum(stats["pool"]["writes"]["total"] for stats in answers.values())

    def is_idle(self) -> bool:
        """True if the only worker has heard the end of everything that it took."""
        inspect = self.app.control.inspect(timeout=1)
        return [*(inspect.reserved() or {"": 1}).values(), *(inspect.active() or {"": 1}).values()] == [[], []]

    def close(self) -> None:
        for worker in self.workers:
            kill(worker)
        self.app.publisher.close()
        self.redis.close()


def _unused(order: OrderPlaced) -> None: ...


def _unused_too(packed: OrderPacked, printed: LabelPrinted) -> None: ...


def family(worker: Any) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(worker.pid)
        return [parent, *parent.children(recursive=True)]
    return []


def kill(worker: Any) -> None:
    for process in family(worker):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    worker.wait(DEADLINE)


@pytest.fixture
def payment(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    payment = Payment(redis_url, namespace, tmp_path)
    yield payment
    payment.close()


@pytest.mark.parametrize(("pool", "concurrency", "lane"), [*((*pool, True) for pool in POOLS), ("threads", 2, False)])
def test_copies_side_by_side_are_handled_once(payment: Payment, pool: str, concurrency: int, lane: bool):
    payment.place(OrderPlaced(number=1, seconds=1.0), copies=3)

    # A second worker takes what the first leaves.
    payment.ready(payment.start(pool, concurrency, lane=lane), payment.start(pool, concurrency, lane=lane))
    eventually(lambda: payment.noted("done"))
    payment.place(OrderPlaced(number=1))
    payment.place(OrderPlaced(number=2))
    eventually(lambda: 2 in payment.noted("done"))
    payment.settled()

    assert payment.noted("begun") == [1, 2]


@pytest.mark.parametrize(("pool", "concurrency", "lane"), BOTH_WAYS)
def test_what_a_killed_worker_had_begun_is_run_again_and_what_it_had_taken_is_run_once(
    payment: Payment, pool: str, concurrency: int, lane: bool
):
    orders = [OrderPlaced(number=number, seconds=1.0) for number in range(6)]
    payment.place(*orders)
    killed = payment.start(pool, concurrency, lane=lane)
    eventually(lambda: len(payment.noted("begun")) >= concurrency)
    kill(killed)
    begun, done = payment.noted("begun"), payment.noted("done")

    payment.start(pool, concurrency, lane=lane)
    eventually(lambda: set(payment.noted("done")) == set(range(6)))
    payment.settled()
    # An event that comes once more does nothing.
    payment.place(*orders)
    payment.settled()

    twice = set(begun) - set(done)
    assert sorted(payment.noted("begun")) == sorted([*range(6), *twice])


@pytest.mark.parametrize(("pool", "concurrency", "lane"), BOTH_WAYS_ALONE)
def test_what_kills_its_workers_is_parked_and_what_waits_beside_it_is_not(
    payment: Payment, pool: str, concurrency: int, lane: bool
):
    innocent = range(1, 9)
    payment.place(OrderPlaced(number=0, kills=True), *[OrderPlaced(number=number) for number in innocent])

    worker = payment.start(pool, concurrency, lane=lane)
    deadline = time.monotonic() + 2 * DEADLINE
    while set(payment.noted("done")) != set(innocent) or not list(payment.app.dead_letters):
        assert time.monotonic() < deadline, (payment.noted("begun"), payment.left())
        if worker.poll() is not None:
            worker = payment.start(pool, concurrency, lane=lane)
        time.sleep(0.05)
    payment.settled()

    (letter,) = payment.app.dead_letters
    assert (letter.reason, letter.subject) == (Reason.POISON, "ORD-0")
    # The main process of a pool of processes knows how a child ended. If it is killed itself, only its name is known.
    words = (
        rf"of payment.w0@payment.{HOST} ended with signal 9 \(SIGKILL\)"
        if pool == "prefork"
        else f"on {HOST} ended, .*"
    )
    assert re.fullmatch(rf"begun 4 times and never finished; the last time process \d+ {words}", letter.error)
    assert payment.noted("begun").count(0) == 3
    assert sorted(payment.noted("begun"))[3:] == list(innocent)


@pytest.mark.parametrize(
    ("pool", "lane", "ahead"),
    [
        ("prefork", True, False),
        ("threads", True, True),
        ("solo", True, True),
        ("gevent", True, False),
        ("solo", False, False),
    ],
)
def test_commits_are_sent_ahead_where_the_loop_hears_the_answers(payment: Payment, pool: str, lane: bool, ahead: bool):
    payment.place(OrderPlaced(number=1, tells=True))

    payment.start(pool, lane=lane)
    eventually(lambda: payment.noted("done"))
    payment.settled()

    assert payment.noted("ahead") == [int(ahead)]


def test_what_kills_its_workers_is_parked_as_soon_if_it_is_not_the_oldest(payment: Payment):
    payment.place(OrderPlaced(number=1, seconds=10.0), OrderPlaced(number=0, kills=True))

    worker = payment.start("threads", 2)
    deadline = time.monotonic() + 2 * DEADLINE
    while "ORD-0" not in {letter.subject for letter in payment.app.dead_letters}:
        assert time.monotonic() < deadline, (payment.noted("begun"), payment.left())
        if worker.poll() is not None:
            worker = payment.start("threads", 2)
        time.sleep(0.05)

    assert payment.noted("begun").count(0) == 3


@pytest.mark.parametrize(("pool", "concurrency"), [("prefork", 2), ("threads", 8), ("solo", 1)])
def test_an_outage_of_seconds_loses_nothing(payment: Payment, redis_url: str, pool: str, concurrency: int):
    numbers = range(1000)
    payment.place(*[OrderPlaced(number=number, seconds=0.001) for number in numbers])
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        payment.start(pool, concurrency, timeout=15, port=proxy.port)
        eventually(lambda: len(payment.noted("done")) > 100)

        proxy.set("refuse")
        proxy.cut()
        time.sleep(2)  # so long that a commit is given up
        proxy.set("ok")

        eventually(lambda: set(payment.noted("done")) == set(numbers))
        payment.settled()


@pytest.mark.parametrize(("pool", "concurrency"), [("prefork", 2), ("threads", 8), ("solo", 1)])
def test_joins_survive_whatever_becomes_of_the_workers_that_were_given_their_parts_together(
    payment: Payment, redis_url: str, pool: str, concurrency: int
):
    numbers = set(range(600))
    cancelled = {number for number in numbers if number % 10 == 0}
    parts = [kind(number=number) for number in numbers for kind in (OrderPacked, LabelPrinted)]
    Random(7).shuffle(parts)
    events = [*(OrderCancelled(number=number) for number in cancelled), *parts]
    payment.app.publisher.announce([payment.envelope(event) for event in events])

    def shipped(count: int) -> None:
        """Wait until so many more are shipped, or all."""
        wanted = min(len(payment.noted("shipped")) + count, len(numbers - cancelled))
        eventually(lambda: len(set(payment.noted("shipped"))) >= wanted)

    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        worker = payment.start(pool, concurrency, port=proxy.port)
        shipped(20)
        kill(worker)
        worker = payment.start(pool, concurrency, port=proxy.port)
        shipped(20)
        proxy.cut()
        shipped(20)
        proxy.set("refuse")
        proxy.cut()
        time.sleep(1.5)
        proxy.set("ok")
        shipped(20)
        worker.send_signal(signal.SIGTERM)
        payment.start(pool, concurrency, port=proxy.port)

        eventually(lambda: set(payment.noted("shipped")) == numbers - cancelled)
        payment.settled()
    assert list(payment.app.dead_letters) == []


@pytest.mark.parametrize(("pool", "concurrency", "lane"), BOTH_WAYS)
def test_what_a_stopping_worker_returns_runs_elsewhere_at_once(
    payment: Payment, pool: str, concurrency: int, lane: bool
):
    payment.place(*[OrderPlaced(number=number, waits=number < concurrency) for number in range(20)])
    # Nothing here may depend on a lease or a silence: each would take ten minutes.
    stopped = payment.start(pool, concurrency, timeout=600, lease=600, lane=lane)
    eventually(lambda: len(payment.noted("begun")) == concurrency)
    payment.ready(payment.start(pool, concurrency, timeout=600, lease=600, lane=lane))
    stopped.send_signal(signal.SIGTERM)

    # A worker with the solo pool hears of the signal when its handler is done, the others while theirs still run.
    if pool != "solo":
        eventually(lambda: set(payment.noted("done")) == set(range(concurrency, 20)))
    payment.open()
    eventually(lambda: set(payment.noted("done")) == set(range(20)))
    assert stopped.wait(DEADLINE) == 0
    payment.settled()
    assert sorted(payment.noted("begun")) == list(range(20))


def frozen_child(payment: Payment, worker: Any) -> psutil.Process:
    """The only pool child of a worker. It gets no turn: event 1 is in its pipe, and event 2 waits in its parent."""
    payment.place(OrderPlaced(number=0))
    payment.settled()
    # Only to a child that has answered is anything written.
    eventually(payment.is_idle)
    _, child = family(worker)
    child.suspend()
    payment.place(OrderPlaced(number=1), OrderPlaced(number=2))
    eventually(lambda: payment.written_to_children() == 2)
    return child


def test_a_stopping_worker_does_not_give_back_what_a_pool_child_will_begin(payment: Payment):
    stopped = payment.start("prefork", timeout=600, lease=600)
    child = frozen_child(payment, stopped)
    payment.ready(payment.start("prefork", timeout=600, lease=600))
    stopped.send_signal(signal.SIGTERM)
    eventually(lambda: len(payment.noted("done")) > 1, reason="what waited in the parent runs elsewhere")
    elsewhere = payment.noted("begun")
    child.resume()

    assert stopped.wait(DEADLINE) == 0
    eventually(lambda: set(payment.noted("done")) == {0, 1, 2})
    payment.settled()
    assert elsewhere == [0, 2]
    assert payment.noted("begun") == [0, 2, 1]


def test_a_worker_that_loses_its_connection_does_not_give_back_what_a_pool_child_will_begin(
    payment: Payment, redis_url: str
):
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        child = frozen_child(payment, payment.start("prefork", timeout=600, lease=600, port=proxy.port))
        # What it gives back, it must not take again.
        payment.app.control.cancel_consumer(payment.app.runtime.topology.name_of("payment.charge"), reply=True)
        payment.ready(payment.start("prefork", timeout=600, lease=600))
        proxy.cut()
        eventually(lambda: len(payment.noted("done")) > 1, reason="what waited in the parent runs elsewhere")
        elsewhere = payment.noted("begun")
        child.resume()

        eventually(lambda: set(payment.noted("done")) == {0, 1, 2})
        payment.settled()
    assert elsewhere == [0, 2]
    assert payment.noted("begun") == [0, 2, 1]


def test_sigterm_to_the_whole_process_group_loses_nothing(payment: Payment):
    payment.place(*[OrderPlaced(number=number, seconds=1.5) for number in range(6)])
    worker = payment.start("prefork", 2)
    eventually(lambda: len(payment.noted("begun")) >= 2)

    os.killpg(worker.pid, signal.SIGTERM)

    worker.wait(DEADLINE)
    payment.start("prefork", 2)
    eventually(lambda: set(payment.noted("done")) == set(range(6)))
    payment.settled()
    assert list(payment.app.dead_letters) == []


@pytest.mark.parametrize(("pool", "concurrency"), ALONE)
def test_a_worker_that_was_frozen_begins_nothing_that_it_lost_and_commits_nothing(
    payment: Payment, pool: str, concurrency: int
):
    payment.place(*[OrderPlaced(number=number, seconds=0.5) for number in range(4)])
    frozen = payment.start(pool, concurrency)
    eventually(lambda: payment.noted("begun"))
    for process in family(frozen):
        process.suspend()
    begun = payment.noted("begun")

    payment.start(pool, concurrency)
    eventually(lambda: set(payment.noted("done")) == {0, 1, 2, 3})
    payment.settled()
    for process in reversed(family(frozen)):
        process.resume()

    eventually(lambda: "another worker has taken over" in payment.log(0))
    payment.place(OrderPlaced(number=4))
    eventually(lambda: 4 in payment.noted("done"))
    payment.settled()
    # Only what it was in the middle of ran twice.
    assert sorted(payment.noted("begun")) == sorted([0, 1, 2, 3, 4, begun[-1]])


@pytest.mark.parametrize(("pool", "concurrency"), POOLS)
def test_a_long_handler_keeps_its_claim_while_its_worker_lives(payment: Payment, pool: str, concurrency: int):
    payment.place(OrderPlaced(number=1, seconds=5.0))
    first = payment.start(pool, concurrency, timeout=1.0, lease=1.5)
    eventually(lambda: payment.noted("begun"))
    payment.ready(first, payment.start(pool, concurrency, timeout=1.0, lease=1.5))
    payment.place(OrderPlaced(number=1, seconds=5.0))

    eventually(lambda: payment.noted("done"))
    payment.settled()
    assert payment.noted("begun") == [1]
