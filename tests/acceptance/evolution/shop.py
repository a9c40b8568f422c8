"""A shop with two services, whose releases are source trees, and what a deployer of it sees and does."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import redis

from choreo import DeadLetter, Event, Service
from tests.acceptance.evolution.changes import Change
from tests.nursery import Process, run_choreo, start_worker
from tests.waiting import DEADLINE, eventually


class CartCheckedOut(Event):
    """What customers do. It does not change."""

    number: int


class Shop:
    """The services ``order`` and ``billing``, of which each worker runs the code of one release."""

    def __init__(self, change: Change, broker: str, store: str, namespace: str, directory: Path) -> None:
        self._directory = directory
        places = {"BROKER_URL": broker, "STORE_URL": store, "NAMESPACE": namespace}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHOREO_", "CELERY_"))}
        self._environment = kept | {f"CHOREO_{name}": value for name, value in places.items()}
        config = {"choreo_store_url": store, "choreo_namespace": namespace}
        self.app = Service("customers", broker=broker, config=config, announces=[CartCheckedOut], set_as_current=False)
        self._notebook, self._namespace = redis.Redis.from_url(store, decode_responses=True), namespace
        self._workers: dict[str, Process] = {}
        self._log = directory / "log"
        #: The number of carts that were checked out.
        self.sold = 0
        self._write(change)

    def _write(self, change: Change) -> None:
        """The trees of the releases. As in a repository, the contract files of the first one are in the others."""
        change.before.write_first(self._directory / "before")
        self.choreo("before", "events", "write", code=0)
        for name, code in (("between", change.between), ("after", change.after), ("careless", change.careless)):
            if code is not None:
                shutil.copytree(self._directory / "before", self._directory / name)
                code.write(self._directory / name, "2.0")
        if change.between is not None:
            self.choreo("between", "events", "write", code=0)

    def choreo(self, release: str, *arguments: str, code: int) -> str:
        """Run `choreo` in the tree of a release. It ends with this code. Returns what it says."""
        ended, said = run_choreo(*arguments, environment=self._environment, directory=self._directory / release)
        assert ended == code, f"{' '.join(arguments)} ended with {ended}:\n{said}"
        return said

    def deploy(self, service: str, release: str) -> None:
        """Replace the worker of a service by one of this release."""
        self.stop(service)
        environment = self._environment | {
            "PYTHONPATH": str(self._directory / release),
            "PYTHONWARNINGS": "ignore",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        options = ("-P", "solo", "-l", "INFO", "-n", f"{service}-{release}@%h", "--without-mingle", "--without-gossip")
        self._workers[service] = worker = start_worker(
            f"shop.{service}", *options, log=self._log, environment=environment
        )
        ready = f"{service}-{release}@"
        eventually(lambda: self._is_ready(ready) or worker.poll() is not None, reason=f"{ready} is ready")
        assert worker.poll() is None, self._log.read_text()

    def _is_ready(self, name: str) -> bool:
        return any(name in line and line.endswith("ready.") for line in self._log.read_text().splitlines())

    def stop(self, service: str) -> None:
        """SIGTERM, if it runs."""
        if service in self._workers:
            worker = self._workers.pop(service)
            worker.terminate()
            worker.wait(DEADLINE)

    @contextmanager
    def selling(self) -> Iterator[None]:
        """Context manager: customers check out carts, one after another."""
        closed = Flag()

        def sell() -> None:
            for number in count():
                self.app.publish(CartCheckedOut(number=number), subject=f"CART-{number}")
                self.sold = number + 1
                if closed.wait(0.1):
                    return

        thread = Thread(target=sell)
        thread.start()
        try:
            yield
        finally:
            closed.set()
            thread.join()

    @property
    def charged(self) -> list[str]:
        """What the handler has noted, by the numbers of the orders."""
        noted = self._notebook.lrange(f"{self._namespace}:charged", 0, -1)
        return sorted(noted, key=lambda note: int(note.split()[0]))

    @property
    def has_tried(self) -> bool:
        return bool(self._notebook.exists(f"{self._namespace}:tried"))

    @property
    def letters(self) -> Sequence[DeadLetter]:
        return list(self.app.dead_letters)

    def close(self) -> None:
        for worker in self._workers.values():
            worker.kill()
            worker.wait(DEADLINE)
        self.app.publisher.close()
        self._notebook.close()
