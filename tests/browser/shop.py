"""A small platform with real workers, its faults, and `choreo web` beside it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from choreo import DeadLetter, Service
from choreo.local.platform import Platform
from choreo.local.server import EmbeddedServer
from handlers.ledger import Ledger
from tests.browser.services.making import NAMESPACE, fault
from tests.browser.services.words import OrderPlaced
from tests.ending import with_this_process
from tests.platforms import ForkedPlatform
from tests.waiting import eventually

PACKAGE = "tests.browser.services"
SERVICES = ("payment", "kitchen", "driver")
#: The databases of the services.
LEDGERS = {name: Ledger(name, "CREATE TABLE IF NOT EXISTS effects (key TEXT, order_id TEXT);") for name in SERVICES}


@dataclass
class Shop:
    """The platform. Each test tells its own orders by their subject."""

    url: str
    namespace: str
    app: Service
    platform: Platform
    directory: Path

    def place(self, subject: str, **fields: Any) -> str:
        """Place an order; returns its subject."""
        self.app.publish(OrderPlaced(**fields), subject)
        return subject

    def effects(self, service: str, subject: str) -> int:
        """How often the service did its work for an order, or for orders that begin so, by its own database."""
        (row,) = LEDGERS[service].rows("SELECT count(*) AS n FROM effects WHERE order_id LIKE ?", f"{subject}%")
        return int(row["n"])

    def letters(self, subject: str) -> list[DeadLetter]:
        """The dead letters about orders that begin so."""
        return [letter for letter in self.app.dead_letters if letter.subject.startswith(subject)]

    def is_paused(self, service: str) -> bool:
        """True if every worker of the service says that it consumes one of its queues no more."""
        workers = self.app.runtime.store.presence(service).workers
        return bool(workers) and all(worker.paused for worker in workers)

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """While it is open, the services have this fault."""
        fault(name).parent.mkdir(parents=True, exist_ok=True)
        fault(name).touch()
        try:
            yield
        finally:
            fault(name).unlink(missing_ok=True)

    def delivered(self, subject: str, orders: int = 1) -> None:
        """Wait until each of these orders has its driver; then each service has done its work for each once."""
        eventually(lambda: self.effects("driver", subject) >= orders, reason=f"{subject} has a driver")
        assert {name: self.effects(name, subject) for name in SERVICES} == dict.fromkeys(SERVICES, orders)


@contextmanager
def shop(directory: Path) -> Iterator[Shop]:
    """The platform with its workers. Its data are in this directory."""
    os.environ["CHOREO_DATA"] = str(directory / "data")
    with ExitStack() as stack:
        stack.callback(os.environ.pop, "CHOREO_DATA")
        server = stack.enter_context(EmbeddedServer())
        namespace = f"t{uuid4().hex[:6]}"
        platform = ForkedPlatform(
            PACKAGE,
            broker_url=server.url,
            store_url=server.url,
            directory=directory,
            environment={NAMESPACE: namespace, "CHOREO_DATA": os.environ["CHOREO_DATA"]},
            worker_options=("--pool", "solo"),
        )
        stack.enter_context(platform)
        platform.start(*SERVICES)
        platform.wait_ready()
        own = {"choreo_store_url": server.url, "choreo_namespace": namespace}
        app = Service("shopfront", config=own, broker=server.url, set_as_current=False)
        yield Shop(server.url, namespace, app, platform, directory)


@contextmanager
def pages(shop: Shop, *options: str) -> Iterator[str]:
    """The address of a `choreo web` for this platform, in a process of its own."""
    where = ["--broker", shop.url, "--store", shop.url, "--namespace", shop.namespace]
    log = shop.directory / f"web-{uuid4().hex[:6]}.log"
    command = [sys.executable, "-m", "choreo", "web", "--port", "0", *where, *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=with_this_process)
    try:

        def address() -> str:
            assert process.poll() is None, log.read_text()
            found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
            return found[0] if found else ""

        yield eventually(address, reason=f"{' '.join(command)} listens")
    finally:
        process.terminate()
        process.wait(30)
