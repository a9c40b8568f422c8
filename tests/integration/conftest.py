"""Real workers on real brokers. They are started once, and each test tells its own events apart by their subject."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from choreo import DeadLetter, Envelope, Event, Service
from choreo.local.platform import Platform
from choreo.local.server import EmbeddedServer
from choreo.store.redis import RedisStore
from tests.integration.services.making import FAST_LANE, JOURNAL, NAMESPACE
from tests.integration.workers import Payment
from tests.platforms import ForkedPlatform
from tests.servers import rabbitmq_vhost, require_rabbitmq
from tests.waiting import DEADLINE, eventually

PACKAGE = "tests.integration.services"
#: As many pool processes as this machine has cores.
OPTIONS = ("--concurrency", "2")


@dataclass
class World:
    """A broker, the services on it, and what they wrote down."""

    broker: str
    broker_url: str
    store_url: str
    namespace: str
    journal: Path
    platform: Platform
    app: Service

    def publish(self, event: Event, subject: str) -> Envelope:
        return self.app.publish(event, subject=subject)

    def notes(self, what: str | None = None, subject: str | None = None) -> list[dict[str, Any]]:
        """What was written down, by whichever service, in the order of writing."""
        text = self.journal.read_text() if self.journal.exists() else ""
        wanted = [json.dumps(name) for name in (what, subject) if name is not None]
        # The last line may be half written. Those about others are not read: there are thousands, and tests ask often.
        lines = [line for line in text.split("\n")[:-1] if all(name in line for name in wanted)]
        notes = [json.loads(line) for line in lines]
        return [note for note in notes if what in (None, note["what"]) and subject in (None, note["subject"])]

    def done(self, what: str, subject: str, times: int = 1, timeout: float = DEADLINE) -> list[dict[str, Any]]:
        """Wait until this was done so often, and return the notes of it. Fails if it is done more often."""
        self._until(lambda: len(self.notes(what, subject)) >= times, f"{what} of {subject} {times}x", timeout)
        notes = self.notes(what, subject)
        assert len(notes) == times, notes
        return notes

    def letters(self, subject: str) -> list[DeadLetter]:
        return [letter for letter in self.app.dead_letters if letter.subject == subject]

    def letter(self, subject: str) -> DeadLetter:
        """Wait for the one dead letter about this subject."""
        self._until(lambda: self.letters(subject), f"a dead letter about {subject}", DEADLINE)
        (letter,) = self.letters(subject)
        return letter

    def settled(self) -> None:
        """Wait until no service has anything left to do soon: all queues are empty, and stay so for three looks."""
        quiet = 0

        def is_quiet() -> bool:
            nonlocal quiet
            time.sleep(0.1)
            quiet = 0 if self.backlog() else quiet + 1
            return quiet == 3

        self._until(is_quiet, "everything to be done", DEADLINE)

    def backlog(self) -> dict[str, int]:
        """Messages that wait in queues, or in schedules for less than a minute."""
        store = self.app.runtime.store
        assert isinstance(store, RedisStore)
        handlers = store.handlers()
        with redis.Redis.from_url(self.store_url) as client, self.app.connection_for_write() as connection:
            soon = time.time() * 1000 + 60_000
            later = {name: client.zcount(f"{store.prefix}:{{{name}}}:due", "-inf", soon) for name in handlers}
            ready = {}
            for name in handlers:
                queue = self.app.runtime.topology.name_of(name)
                # An empty list is no key in Redis, so that there is no such queue to be declared.
                declared = (
                    None if self.broker == "redis" else connection.default_channel.queue_declare(queue, passive=True)
                )
                ready[name] = declared.message_count if declared else client.llen(queue)
        return {name: later[name] + ready[name] for name in handlers if later[name] + ready[name]}

    def _until(self, probe: Callable[[], Any], reason: str, timeout: float) -> None:
        try:
            eventually(probe, timeout, reason)
        except AssertionError as error:
            logs = {name: self.platform.last_lines(name, 15) for name in self.platform.started}
            raise AssertionError(f"{error}\n{json.dumps(logs, indent=1)}") from None


MakeWorld = Callable[..., World]


@pytest.fixture(scope="session")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeWorld]:
    """
    Makes a world with these services running: ``make_world("redis", "payment", "loyalty", lane=False)``.

    ``store`` is the URL of its store, if it is not a server of its own.
    """
    with ExitStack() as stack:

        def make(
            broker: str, *services: str, options: tuple[str, ...] = OPTIONS, lane: bool = True, store: str = ""
        ) -> World:
            # A server of its own: its workers stay, and other tests count what their server does.
            namespace, redis_url = f"t{uuid4().hex[:8]}", stack.enter_context(EmbeddedServer()).url
            broker_url = redis_url if broker == "redis" else stack.enter_context(rabbitmq_vhost(require_rabbitmq()))
            store_url = store or redis_url
            directory = tmp_path_factory.mktemp(broker)
            journal = directory / "journal"
            journal.touch()
            platform = ForkedPlatform(
                PACKAGE,
                broker_url=broker_url,
                store_url=store_url,
                directory=directory,
                environment={JOURNAL: str(journal), NAMESPACE: namespace, FAST_LANE: "on" if lane else "off"},
                worker_options=options,
            )
            app = Service("tests", config=None, broker=broker_url, set_as_current=False)
            app.conf.choreo_store_url = store_url
            app.conf.choreo_namespace = namespace
            app.conf.choreo_fast_lane = lane
            stack.enter_context(platform)
            platform.start(*services)
            platform.wait_ready()
            return World(broker, broker_url, store_url, namespace, journal, platform, app)

        yield make


@pytest.fixture(scope="session", params=["redis", "rabbitmq", "redis, lane off", "rabbitmq, lane off"])
def world(request: pytest.FixtureRequest, make_world: MakeWorld) -> World:
    """All services, each run by a worker with the usual pool."""
    broker, _, lane = request.param.partition(", ")
    return make_world(broker, "payment", "loyalty", "analytics", "driver", lane=lane != "lane off")


@pytest.fixture
def subject() -> str:
    """What the events of one test are about."""
    return f"ORD-{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[str]:
    """A vhost of RabbitMQ for the tests of one module."""
    with rabbitmq_vhost(require_rabbitmq()) as url:
        yield url


@pytest.fixture(params=["rabbitmq", "redis"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    """The service `payment` of `worker_app`, on each broker. A module may have a `payment` of its own."""
    broker = request.getfixturevalue("rabbitmq") if request.param == "rabbitmq" else redis_url
    payment = Payment(broker, redis_url, namespace, tmp_path)
    yield payment
    payment.close()
