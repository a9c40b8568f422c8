"""Fixtures that every tier shares."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psutil
import pytest
from hypothesis import settings

from choreo.local.server import EmbeddedServer
from tests.parallel import Scheduling, longest_first
from tests.servers import rabbitmq_vhost, require_rabbitmq
from tests.waiting import eventually

#: Environment variable of every process that a test starts. Tests that clean the environment leave it in.
MARK = "STARTED_BY_TESTS_OF"

# Both say everything: what they leave out they would take from hypothesis's own profile, which differs where CI is set.
settings.register_profile("dev", max_examples=50, deadline=None, derandomize=False)
settings.register_profile("ci", max_examples=150, deadline=None, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev"))


# Last, because pytest-randomly shuffles them first.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    longest_first(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def pytest_configure() -> None:
    # A shell that starts `make test &` lets it ignore SIGINT, and every process inherits that. The programs under test
    # are to hear Ctrl-C, as they do when a user starts them.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Ends whatever a test started and did not end, and fails then."""
    mark = uuid4().hex
    os.environ[MARK] = mark
    yield
    try:
        eventually(lambda: not marked(mark), reason="what the tests started ends")
    finally:
        for process in marked(mark):
            process.kill()


def marked(mark: str) -> list[psutil.Process]:
    """The processes that this one has started, and those that they have started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """A server of our own, so that the tests need none and disturb none."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedServer) -> str:
    return redis_server.url


@pytest.fixture
def rabbitmq_url() -> Iterator[str]:
    with rabbitmq_vhost(require_rabbitmq()) as url:
        yield url


@pytest.fixture
def namespace() -> str:
    """Keeps the queues, keys and exchanges of one test apart from all others."""
    return f"t{uuid4().hex[:8]}"
