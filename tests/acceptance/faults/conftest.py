"""One platform with every fault in it. Each test tells its own by the subject of its events."""

import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from choreo import Envelope, Event, Service
from choreo.cli import choreo
from choreo.local.platform import Platform
from choreo.local.server import EmbeddedServer
from handlers.ledger import BUSY_SECONDS
from tests.acceptance.faults.services.making import NAMESPACE, VERSION, mark_of
from tests.platforms import ForkedPlatform
from tests.servers import rabbitmq_vhost, require_rabbitmq
from tests.waiting import eventually

PACKAGE = "tests.acceptance.faults.services"


@dataclass
class Shop:
    """The platform, and an operator at its command line."""

    broker_url: str
    store_url: str
    namespace: str
    app: Service
    platform: Platform
    #: The directory with the databases of the services.
    data: Path

    def publish(self, event: Event, subject: str, **options: Any) -> Envelope:
        return self.app.publish(event, subject, **options)

    def choreo(self, *arguments: str, code: int | None = 0) -> str:
        """The output of a command, with one space between words. It ends with this code; None: with any."""
        where = ("--broker", self.broker_url, "--store", self.store_url, "--namespace", self.namespace)
        done = CliRunner().invoke(choreo, [*arguments, *where])
        # `why-not` ends with 1 unless the event was announced.
        assert code in (None, done.exit_code) or arguments[0] == "why-not", done.output
        if arguments[0] in ("trace", "why-not") and not code:
            # A command is never broken.
            said = done.output.partition("\nDO ")[0]
            assert [line for line in said.splitlines() if len(line) > 80] == []
        return " ".join(done.output.split())

    def sees(self, *arguments: str, words: str, code: int | None = 0) -> str:
        """Wait until the output of a command has these words, a regular expression, and return the output."""
        last = ""

        def has_words() -> bool:
            nonlocal last
            try:
                last = self.choreo(*arguments, code=code)
            except AssertionError as error:  # such as: nothing is known of the order yet
                last = str(error)
                return False
            return re.search(words, last) is not None

        try:
            eventually(has_words, timeout=60)
        except AssertionError:
            raise AssertionError(f"no {words!r} in: {last}") from None
        return last

    def mend(self, *subjects: str) -> None:
        """Let what is wrong with these orders be mended, as by a new version of the service."""
        for subject in subjects:
            mark_of(self.data, subject).touch()

    def effects(self, *subjects: str) -> Counter[str]:
        """What the services did for these orders, as their own databases say, and how often."""
        found: Counter[str] = Counter()
        for path in self.data.glob("*.db"):
            with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
                rows = connection.execute("SELECT what, subject FROM effects").fetchall()
            found.update(f"{path.stem} {what}" for what, subject in rows if subject in subjects)
        return found

    def becomes(self, subject: str, *effects: str) -> None:
        """Wait until the trace of this order says that it is done, and see that this was done for it, each once."""
        self.sees("trace", subject, words="done in")
        assert self.effects(subject) == Counter(effects)

    def celery(self, service: str, *arguments: str) -> None:
        """Run a command of Celery for this service. Raises `CalledProcessError` if it fails."""
        subprocess.run(
            [sys.executable, "-m", "celery", "-A", f"{PACKAGE}.{service}", *arguments],
            env=os.environ
            | {"CHOREO_BROKER_URL": self.broker_url, "CHOREO_STORE_URL": self.store_url, NAMESPACE: self.namespace},
            check=True,
            capture_output=True,
            timeout=60,
        )

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """The worker of this service runs meanwhile, as after `celery -A ... worker`."""
        self.platform.worker_options = ("--pool", "solo")
        self.platform.start(name)
        self.platform.wait_ready()
        try:
            yield
        finally:
            self.platform.stop(name)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """The worker of this service is stopped meanwhile."""
        self.platform.stop(name)
        try:
            yield
        finally:
            self.platform.worker_options = ("--pool", "solo")
            self.platform.start(name)
            self.platform.wait_ready()


def service(broker_url: str, store_url: str, namespace: str, **settings: Any) -> Service:
    own = {"choreo_store_url": store_url, "choreo_namespace": namespace, **settings}
    return Service("shopfront", config=own, broker=broker_url, set_as_current=False)


def platform_of(
    stack: ExitStack, shop: tuple[str, str, str], directory: Path, version: str = "1.4.1", data: Path | None = None
) -> Platform:
    broker_url, store_url, namespace = shop
    platform = ForkedPlatform(
        PACKAGE,
        broker_url=broker_url,
        store_url=store_url,
        directory=directory,
        environment={NAMESPACE: namespace, VERSION: version, "CHOREO_DATA": str(data or directory)},
        worker_options=("--pool", "solo"),
    )
    return stack.enter_context(platform)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        place = server.url, server.url, f"f{uuid4().hex[:6]}"
        data = tmp_path_factory.mktemp("faults")
        platform = platform_of(stack, place, data)
        platform.start("restaurant", "payment", "driver", "analytics", "depot")
        platform.worker_options = ("--pool", "prefork", "-c", "1")
        platform.start("kitchen")
        _restrict_and_stop(platform, place[2])
        yield Shop(*place, service(*place), platform, data)


def _restrict_and_stop(platform: Platform, namespace: str) -> None:
    """Start the worker of texting for one of its two queues, and stop the depot."""
    platform.worker_options = ("--pool", "solo", "-Q", f"{namespace}.texting.text_arrival")
    platform.start("texting")
    platform.wait_ready()
    platform.stop("depot")


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The same behind RabbitMQ, with the services that the tests on it need."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        broker_url = stack.enter_context(rabbitmq_vhost(require_rabbitmq()))
        place = broker_url, server.url, f"f{uuid4().hex[:6]}"
        data = tmp_path_factory.mktemp("rabbit")
        platform = platform_of(stack, place, data)
        platform.start("depot", "driver", "payment")
        _restrict_and_stop(platform, place[2])
        yield Shop(*place, service(*place), platform, data)


@pytest.fixture
def subject() -> str:
    """What the events of one test are about."""
    return f"ORD-{uuid4().hex[:6]}"
