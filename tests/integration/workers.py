"""A worker process of `worker_app`, or of another such module, and what it did."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from choreo import Service
from choreo.store import Terms
from tests.nursery import start_worker
from tests.waiting import DEADLINE, eventually

ROOT = Path(__file__).parents[2]


class Payment:
    """The service ``payment`` on a broker, seen from outside its workers."""

    def __init__(
        self, broker: str, store: str, namespace: str, directory: Path, *, app: str = "worker_app", fresh: bool = False
    ) -> None:
        """``fresh``: the workers start from nothing, see `tests.nursery`."""
        self.module, self.fresh = f"tests.integration.{app}", fresh
        self.broker, self.namespace, self.directory = broker, namespace, directory
        self.settings: dict[str, Any] = {"choreo_store_url": store, "choreo_namespace": namespace}
        self.app = Service("payment", broker=broker, config=self.settings, terms=Terms())
        self.queue = f"{namespace}.payment.charge_customer"
        self._notebook = redis.Redis.from_url(store, decode_responses=True)
        #: Those that were started.
        self.workers: list[Worker] = []

    def worker(self, *options: str, patterns: str = "", name: str = "one", **settings: Any) -> "Worker":
        """Start a worker and wait until it is ready."""
        worker = self.begin(*options, patterns=patterns, name=name, **settings)
        worker.wait_for("ready.")
        return worker

    def begin(
        self, *options: str, patterns: str = "", name: str = "one", gossips: bool = False, **settings: Any
    ) -> "Worker":
        """Start a worker. ``gossips``: it listens to other workers."""
        options = options if gossips else ("--without-mingle", "--without-gossip", *options)
        worker = Worker(self, name, options, patterns, self.settings | settings)
        self.workers.append(worker)
        return worker

    def noted(self, what: str) -> list[int]:
        return sorted(int(number) for number in self._notebook.lrange(f"{self.namespace}:{what}", 0, -1))

    def notes(self, what: str) -> list[str]:
        """What was noted, in order."""
        return list(self._notebook.lrange(f"{self.namespace}:{what}", 0, -1))

    def pid(self, number: int) -> str:
        """The process in which the handler of an order runs; "" if it has not begun."""
        return str(self._notebook.get(f"{self.namespace}:pid:{number}") or "")

    def let(self, count: int) -> None:
        """Let so many runs of the slow handler go on."""
        self._notebook.rpush(f"{self.namespace}:permits", *range(count))

    def open(self) -> None:
        """Let the handlers go on that wait."""
        self._notebook.set(f"{self.namespace}:open", 1)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.app.publisher.close()


class Worker:
    """A process of `celery worker`."""

    def __init__(
        self, payment: Payment, name: str, options: tuple[str, ...], patterns: str, settings: dict[str, Any]
    ) -> None:
        self._log = payment.directory / f"{name}.log"
        always = ("-l", "INFO", "-n", f"{name}@%h", "-c", "2")
        environment = {
            "CHOREO_TEST_SETTINGS": json.dumps(settings),
            "CHOREO_TEST_BROKER": payment.broker,
            "CHOREO_TEST_PATTERNS": patterns,
            "PYTHONWARNINGS": "ignore",
        }
        self._log.unlink(missing_ok=True)
        self.process = start_worker(
            payment.module,
            *always,
            *options,
            log=self._log,
            environment=os.environ | environment,
            fresh=payment.fresh,
        )

    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str, timeout: float = DEADLINE) -> str:
        """Wait until the log says so, or the process has ended."""
        eventually(lambda: text in self.log() or self.process.poll() is not None, timeout, f"{text!r} in the log")
        assert text in self.log(), self.log()
        return self.log()

    def stop(self, timeout: float = DEADLINE) -> int:
        """SIGTERM. Returns the exit code."""
        self.process.terminate()
        return self.process.wait(timeout)

    def kill(self) -> None:
        if self.process.poll() is None:
            # The children of the pool end by themselves when their parent is gone.
            self.process.kill()
            self.process.wait(DEADLINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
