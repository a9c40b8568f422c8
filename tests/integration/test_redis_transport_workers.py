"""The Redis transport under real Celery workers of every pool: killed, stopped, cut off and shut down."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery

from choreo.local.server import EmbeddedServer
from tests.contract.redis_broker import Corner, proxy_to
from tests.integration import redis_worker_app
from tests.nursery import Process, start_worker
from tests.waiting import DEADLINE, eventually

TIMEOUT = 2.0


class Workers:
    """Starts workers on a corner of a server, and knows what they have done."""

    def __init__(self, corner: Corner, logs: Path) -> None:
        self.corner, self._logs = corner, logs
        self._processes: list[Process] = []
        self.app: Celery = Celery("tests", broker=corner.url)
        self.app.conf.update(
            redis_worker_app.app.conf.table(),
            broker_url=corner.url,
            broker_transport_options={"global_keyprefix": corner.prefix},
        )

    def start(self, pool: str, concurrency: int = 1, *, url: str | None = None, **env: str) -> Process:
        number = len(self._processes)
        options = ["-P", pool, "-c", str(concurrency), "-n", f"w{number}@{self.corner.prefix.strip(':')}"]
        options += ["-l", "INFO", "--without-mingle", "--without-gossip"]
        own = {
            "BROKER": url or self.corner.url,
            "NOTES": self.corner.url,
            "PREFIX": self.corner.prefix,
            "CONSUMER_TIMEOUT": str(TIMEOUT),
            "PYTHONWARNINGS": "ignore",
        }
        process = start_worker(
            "tests.integration.redis_worker_app",
            *options,
            log=self._logs / f"worker{number}.log",
            environment=os.environ | own | env,
        )
        self._processes.append(process)
        eventually(lambda: b" ready." in self.log(number), reason=f"worker {number} is ready")
        return process

    def log(self, number: int = 0) -> bytes:
        return (self._logs / f"worker{number}.log").read_bytes()

    def send(self, *numbers: int, seconds: float = 0) -> None:
        for number in numbers:
            self.app.send_task("work", (number, seconds))

    def notes(self, what: str) -> list[Any]:
        texts = self.corner.redis.lrange(f"{self.corner.prefix}notes", 0, -1)
        return [value for kind, value in map(json.loads, texts) if kind == what]

    def wait_for(self, what: str, count: int, timeout: float = DEADLINE) -> list[Any]:
        eventually(lambda: len(self.notes(what)) >= count, timeout, f"{count} notes {what!r}")
        return self.notes(what)

    def stop(self) -> None:
        for process in self._processes:
            for member in _family(process):
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()


def _family(process: Process) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process.pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def workers(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Workers]:
    corner = Corner(redis_url, f"{namespace}:")
    workers = Workers(corner, tmp_path)
    yield workers
    workers.stop()
    workers.app.close()
    corner.close()


POOLS = [
    ("prefork", 2),
    ("threads", 2),
    ("solo", 1),
    ("gevent", 2),
]


@pytest.mark.parametrize(("pool", "concurrency"), POOLS)
def test_tasks_run_a_shutdown_returns_the_rest_at_once_and_a_kill_loses_nothing(
    workers: Workers, pool: str, concurrency: int
):
    corner = workers.corner
    worker = workers.start(pool, concurrency)
    # Ordinary tasks, remote control with replies, and events by topic.
    workers.send(*range(30))
    assert sorted(workers.wait_for("done", 30)) == list(range(30))
    eventually(lambda: corner.in_flight() == {}, reason="the last acks are sent although nothing more is taken")
    assert corner.publish("order.placed", [[100], {}, {}], headers={"task": "work", "id": "x"}) == 1
    workers.wait_for("done", 31)
    replies = workers.app.control.inspect(timeout=DEADLINE, limit=1).active_queues()
    assert [queue["name"] for queues in replies.values() for queue in queues] == ["tasks"]

    # SIGTERM: what runs is finished, the rest goes back while it still runs.
    workers.send(*range(200, 208), seconds=8)
    running = workers.wait_for("started", 31 + concurrency)[31:]
    worker.send_signal(signal.SIGTERM)
    if pool not in ("solo", "gevent"):
        eventually(
            lambda: len(corner.waiting("tasks")) == 8 - concurrency, timeout=8, reason="returned while it still runs"
        )
        assert worker.poll() is None
    assert worker.wait(DEADLINE) == 0
    assert sorted(workers.notes("done")[31:]) == sorted(workers.notes("started")[31:])
    left = [json.loads(message["body"])[0][0] for message in corner.waiting("tasks")]
    assert left == [number for number in range(200, 208) if number not in workers.notes("started")[31:]]
    assert set(running).isdisjoint(left)
    assert corner.in_flight() == {}
    assert corner.owners() == []

    # kill -9: another worker gets what the killed one held.
    corner.redis.delete(f"{corner.prefix}tasks", f"{corner.prefix}notes")
    killed = workers.start(pool, concurrency)
    workers.send(*range(300, 304), seconds=1.0)
    workers.wait_for("started", concurrency)
    for member in _family(killed):
        member.kill()
    killed.wait()
    workers.start(pool, concurrency)
    done = workers.wait_for("done", 4)
    assert set(done) == set(range(300, 304))


def test_sigterm_to_the_whole_process_group_loses_nothing(workers: Workers):
    worker = workers.start("prefork", 2)
    workers.send(*range(8), seconds=1.5)
    workers.wait_for("started", 2)

    os.killpg(worker.pid, signal.SIGTERM)

    worker.wait(DEADLINE)
    workers.start("prefork", 2)
    eventually(lambda: set(workers.notes("done")) == set(range(8)))
    eventually(lambda: workers.corner.in_flight() == {})
    assert workers.corner.waiting("tasks") == []


def test_a_long_task_is_not_given_to_a_second_worker_while_its_first_lives(workers: Workers):
    workers.start("solo", PREFETCH="1", CONSUMER_TIMEOUT="1")
    workers.send(1, seconds=4.0)
    workers.wait_for("started", 1)
    workers.start("solo", PREFETCH="1", CONSUMER_TIMEOUT="1")

    workers.wait_for("done", 1)

    assert workers.notes("started") == [1]


def test_a_task_that_kills_its_pool_child_comes_back_to_the_same_worker_and_is_counted(workers: Workers):
    workers.start("prefork", 1)

    workers.app.send_task("die", (1,))
    workers.send(7)

    assert workers.wait_for("attempt", 2) == [0, 1]
    workers.wait_for("done", 2)
    eventually(lambda: workers.corner.in_flight() == {})


def test_a_task_goes_on_through_a_cut_connection_and_is_not_run_twice(workers: Workers, redis_server: EmbeddedServer):
    with proxy_to(redis_server.port) as proxy:
        url = workers.corner.url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        workers.start("prefork", 1, url=url, PREFETCH="3")
        workers.send(1, seconds=3.0)
        workers.wait_for("started", 1)
        workers.send(2, 3)
        proxy.cut()
        eventually(lambda: workers.log().count(b"Connected to") >= 2, reason="it connects again")

        workers.wait_for("done", 3)
        eventually(lambda: workers.corner.in_flight() == {}, reason="the late ack is sent all the same")

    assert sorted(workers.notes("started")) == [1, 2, 3]
    assert workers.corner.waiting("tasks") == []


def test_a_worker_survives_a_restart_of_redis(namespace: str, tmp_path: Path):
    with EmbeddedServer(persistent=True) as server:
        corner = Corner(server.url, f"{namespace}:")
        workers = Workers(corner, tmp_path)
        try:
            workers.start("threads", 2)
            workers.send(*range(5))
            workers.wait_for("done", 5)

            server.kill()
            server.restart()

            until = time.monotonic() + 5
            _keep_trying(lambda: workers.send(*range(5, 10)), until)
            assert set(workers.wait_for("done", 10)) == set(range(10))
        finally:
            workers.stop()
            workers.app.close()
            corner.close()


def _keep_trying(step: Callable[[], None], until: float) -> None:
    while True:
        try:
            return step()
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
