"""One platform with every fault in it. Each test tells its own by the subject of its events."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from choreo import Envelope, Event, Service
from choreo.cli import choreo
from choreo.local.platform import Platform
from choreo.local.server import EmbeddedServer
from tests.acceptance.faults.services.making import NAMESPACE, VERSION
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
            last = self.choreo(*arguments, code=code)
            return re.search(words, last) is not None

        try:
            eventually(has_words, timeout=60)
        except AssertionError:
            raise AssertionError(f"no {words!r} in: {last}") from None
        return last


def service(broker_url: str, store_url: str, namespace: str, **settings: Any) -> Service:
    own = {"choreo_store_url": store_url, "choreo_namespace": namespace, **settings}
    return Service("shopfront", config=own, broker=broker_url, set_as_current=False)


def platform_of(stack: ExitStack, shop: tuple[str, str, str], directory: Any, version: str = "1.4.1") -> Platform:
    broker_url, store_url, namespace = shop
    platform = Platform(
        PACKAGE,
        broker_url=broker_url,
        store_url=store_url,
        directory=directory,
        environment={NAMESPACE: namespace, VERSION: version},
        worker_options=("--pool", "solo"),
    )
    return stack.enter_context(platform)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        place = server.url, server.url, f"f{uuid4().hex[:6]}"
        platform = platform_of(stack, place, tmp_path_factory.mktemp("faults"))
        platform.start("restaurant", "payment", "driver", "analytics", "depot")
        platform.worker_options = ("--pool", "prefork", "-c", "1")
        platform.start("kitchen")
        platform.worker_options = ("--pool", "solo", "-Q", f"{place[2]}.texting.text_arrival")
        platform.start("texting")
        platform.wait_ready()
        platform.stop("depot")
        yield Shop(*place, service(*place), platform)


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The same behind RabbitMQ, with the services that the tests on it need."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        broker_url = stack.enter_context(rabbitmq_vhost(require_rabbitmq()))
        place = broker_url, server.url, f"f{uuid4().hex[:6]}"
        platform = platform_of(stack, place, tmp_path_factory.mktemp("rabbit"))
        platform.start("depot", "driver")
        platform.worker_options = ("--pool", "solo", "-Q", f"{place[2]}.texting.text_arrival")
        platform.start("texting")
        platform.wait_ready()
        platform.stop("depot")
        yield Shop(*place, service(*place), platform)


@pytest.fixture
def subject() -> str:
    """What the events of one test are about."""
    return f"ORD-{uuid4().hex[:6]}"
