"""The processes of a chaos test: workers and a publisher, with proxies between them and their servers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil

from choreo.local.guard import Guard
from choreo.local.ready import READY_FILE
from tests.chaos.proxy import Proxy
from tests.nursery import Keeper, start_worker

ROOT = Path(__file__).parent.parent.parent
SERVICES = ("restaurant", "payment", "driver", "notification", "loyalty", "analytics")
#: How each service runs when the test does not say otherwise: every pool has its share.
POOLS = {
    "restaurant": "prefork",
    "payment": "prefork",
    "driver": "threads",
    "notification": "solo",
    "loyalty": "threads",
    "analytics": "solo",
}
#: How long a worker may take to begin to consume, on a machine that does other things as well.
READY_SECONDS = 120.0
#: How long a worker may take to stop after SIGTERM.
GRACE_SECONDS = 60.0


@dataclass
class Worker:
    """One worker process of a service, which may be killed and started again."""

    name: str
    service: str
    pool: str
    guard: Keeper
    ready_file: Path
    log: Path
    #: Whether it is meant to run.
    wanted: bool = True

    @property
    def alive(self) -> bool:
        return self.guard.poll() is None

    @property
    def ready(self) -> bool:
        return self.ready_file.exists() and self.alive

    @property
    def pid(self) -> int | None:
        """The main process, once it is ready."""
        return int(self.ready_file.read_text().split()[0]) if self.ready else None

    def children(self) -> list[int]:
        """The processes of its pool."""
        try:
            return [child.pid for child in psutil.Process(self.pid).children()] if self.pid else []
        except psutil.NoSuchProcess:
            return []


@dataclass
class Fleet:
    """
    Workers by name, and the publisher.

    ``broker`` and ``store`` are proxies in front of the servers; they are one and the same where the broker keeps the
    store as well.
    """

    broker_url: str
    store_url: str | None
    namespace: str
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 2
    #: Whose workers the faults may hit.
    targets: tuple[str, ...] = SERVICES
    workers: dict[str, Worker] = field(default_factory=dict)
    publisher: Guard | None = None
    #: Seconds without any progress after which nothing more is waited for.
    patience: float = 60.0
    #: Which workers ended by themselves.
    exits: list[str] = field(default_factory=list)
    #: What no worker may do, whatever the ledger says.
    findings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.books = self.directory / "books"
        self.books.mkdir()
        self.broker = _proxy_for(self.broker_url).start()
        self.store = _proxy_for(self.store_url).start() if self.store_url else self.broker

    @property
    def is_fused(self) -> bool:
        """True if a commit puts its events into their queues: store and broker are one, and the fast lane is on."""
        return self.store_url is None and self.environment.get("CHAOS_FAST_LANE") != "off"

    # -- workers ---------------------------------------------------------------------------------------------------

    def start(self, *services: str, pool: str | None = None, number: int = 1) -> list[Worker]:
        """Start a worker for each of these services; they are not waited for."""
        return [self._start(service, pool or POOLS[service], number) for service in services]

    def restart(self, worker: Worker) -> Worker:
        """Start a worker anew, whatever became of the last one of its name."""
        worker.guard.kill()
        return self._start(worker.service, worker.pool, int(worker.name.partition("-")[2]))

    def look_after(self) -> None:
        """Start what has ended by itself, as systemd or Kubernetes would."""
        for worker in list(self.workers.values()):
            if worker.wanted and not worker.alive:
                self.exits.append(f"{worker.name} ended with {worker.guard.poll()}")
                self.restart(worker)

    def kill(self, worker: Worker) -> None:
        """`kill -9` of the main process; the processes of its pool follow, as in a container."""
        if worker.pid:
            os.kill(worker.pid, signal.SIGKILL)
        worker.guard.kill()

    def stop(self, *workers: Worker) -> None:
        """SIGTERM, and wait. Whoever has to be killed in the end is a finding."""
        for worker in workers:
            worker.wanted = False
            worker.guard.end()
        ask_at = time.monotonic() + GRACE_SECONDS - 2
        while any(worker.alive for worker in workers) and time.monotonic() < ask_at:
            time.sleep(0.02)
        late = [worker.name for worker in workers if worker.alive]
        for worker in workers:
            if worker.name in late and worker.pid:
                # They answer with the stacks of their threads, in the log.
                for child in worker.children():
                    os.kill(child, signal.SIGUSR2)
                os.kill(worker.pid, signal.SIGUSR1)
        killed = [worker.name for worker in workers if worker.guard.stop() == 128 + signal.SIGKILL]
        # One that has died at a named point while it was stopping was not too slow.
        stubborn = [name for name in killed if name in late]
        self.findings += [f"stuck: {name} did not stop within {GRACE_SECONDS:g} s of SIGTERM" for name in stubborn]

    def wait_ready(self, *workers: Worker, timeout: float = READY_SECONDS) -> None:
        """Wait until these workers, by default all, consume."""
        give_up_at = time.monotonic() + timeout
        while waiting := [w for w in (workers or tuple(self.workers.values())) if w.wanted and not w.ready]:
            for worker in waiting:
                if not worker.alive:
                    raise AssertionError(f"{worker.name} ended instead of starting:\n{tail(worker.log)}")
            if time.monotonic() > give_up_at:
                logs = "\n".join(f"{worker.name}:\n{tail(worker.log)}" for worker in waiting)
                raise AssertionError(f"not ready within {timeout:g} s:\n{logs}")
            time.sleep(0.05)

    def slow_down(self, factor: float) -> None:
        """Make the handlers of workers that are started from now on work so many times longer."""
        self.environment = {**self.environment, "CHAOS_SLOWNESS": str(factor)}

    # -- publisher -------------------------------------------------------------------------------------------------

    def publish(self, first: int, last: int, per_second: float = 1e9, copies: int = 1) -> None:
        """Start a process that places these orders, after the last one has ended."""
        module = "tests.chaos.services.publisher"
        command = [sys.executable, "-m", module, *map(str, (first, last, per_second, copies))]
        log = self.directory / "publisher.log"
        self.publisher = Guard(command, log=log, cwd=ROOT, env=self._environment(), grace=1)

    def wait_published(self, timeout: float = 120.0) -> None:
        """Wait until the publisher has placed its orders."""
        assert self.publisher is not None
        try:
            code = self.publisher.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the publisher hangs:\n{tail(self.directory / 'publisher.log')}") from None
        assert code in (0, 128 + signal.SIGKILL), tail(self.directory / "publisher.log")

    # -- all -------------------------------------------------------------------------------------------------------

    def calm(self) -> None:
        """Take all hands off the network."""
        self.broker.mode = self.store.mode = "ok"

    def close(self) -> None:
        self.calm()
        for worker in self.workers.values():
            worker.wanted = False
            worker.guard.send(signal.SIGCONT)
            worker.guard.send(signal.SIGKILL)
            worker.guard.end()
        for worker in self.workers.values():
            worker.guard.stop()
        if self.publisher:
            self.publisher.stop()
        self.broker.stop()
        self.store.stop()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Print the logs if the block fails."""
        try:
            yield
        except BaseException:
            print(self.complaints())
            raise

    def complaints(self, count: int = 30) -> str:
        """What the logs say last."""
        found = []
        for path in sorted(self.directory.glob("*.log")):
            lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
            found.append(f"--- the end of {path.name}\n" + "\n".join(lines[-count:]))
        return "\n".join(found + self.exits)

    def _start(self, service: str, pool: str, number: int) -> Worker:
        name = f"{service}-{number}"
        ready_file = self.directory / f"{name}.ready"
        ready_file.unlink(missing_ok=True)
        log = self.directory / f"{name}.log"
        app = f"tests.chaos.services.{service}"
        options = ["--include", "choreo.local.ready", "--hostname", f"{name}@chaos"]
        options += ["--loglevel", "WARNING", "--without-mingle", "--without-gossip"]
        size = [] if pool == "solo" else ["--concurrency", str(self.concurrency)]
        environment = self._environment() | {READY_FILE: str(ready_file)}
        process = start_worker(app, *options, "--pool", pool, *size, log=log, environment=environment, quiet=True)
        guard = Keeper(process, GRACE_SECONDS)
        self.workers[name] = Worker(name, service, pool, guard, ready_file, log)
        return self.workers[name]

    def _environment(self) -> dict[str, str]:
        urls = {"CHAOS_BROKER_URL": _through(self.broker, self.broker_url)}
        if self.store_url:
            urls["CHAOS_STORE_URL"] = _through(self.store, self.store_url)
        own = {"CHAOS_NAMESPACE": self.namespace, "CHAOS_BOOKS": str(self.books), "PYTHONUNBUFFERED": "1"}
        options = {"CHAOS_TRANSPORT_OPTIONS": json.dumps(transport_options(self.broker_url))}
        return {**os.environ, **urls, **own, **options, **self.environment}


def transport_options(broker_url: str) -> dict[str, object]:
    """Patience that is short enough for a test."""
    if broker_url.startswith("redis"):
        return {"consumer_timeout": 3, "socket_timeout": 3, "socket_connect_timeout": 3}
    return {}


@contextmanager
def fleet(
    broker_url: str,
    store_url: str | None,
    namespace: str,
    directory: Path,
    environment: Mapping[str, str],
    **options: Any,
) -> Iterator[Fleet]:
    """A fleet that is gone after the block."""
    ships = Fleet(broker_url, store_url, namespace, directory, environment, **options)
    try:
        yield ships
    finally:
        ships.close()


def tail(path: Path, lines: int = 20) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(nothing)"


def _proxy_for(url: str) -> Proxy:
    parts = urlsplit(url)
    return Proxy(parts.hostname or "127.0.0.1", parts.port or (5672 if parts.scheme.startswith("amqp") else 6379))


def _through(proxy: Proxy, url: str) -> str:
    parts = urlsplit(url)
    userinfo, _, _ = parts.netloc.rpartition("@")
    netloc = f"{userinfo}@127.0.0.1:{proxy.port}" if userinfo else f"127.0.0.1:{proxy.port}"
    return urlunsplit(parts._replace(netloc=netloc))
