"""Fixtures that every tier shares."""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis
from hypothesis import settings

from tests.ending import MARK, end
from tests.nursery import NURSERY
from tests.parallel import Scheduling, is_whole, longest_first, sample
from tests.servers import VHOSTS, rabbitmq_vhost, require_rabbitmq

if TYPE_CHECKING:
    # Not here, because pytest-cov begins to measure later than pytest imports this file.
    from choreo.local.server import EmbeddedServer

# Both say everything: what they leave out they would take from hypothesis's own profile, which differs where CI is set.
# Each run tries other examples, so many short runs find what one long run does.
settings.register_profile("usual", max_examples=50, deadline=None, derandomize=False, print_blob=True)
settings.register_profile("all", max_examples=150, deadline=None, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("all" if is_whole() else "usual"))


# Last, because pytest-randomly shuffles them first.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if left_out := sample(items):
        config.hook.pytest_deselected(items=left_out)
    longest_first(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def pytest_configure() -> None:
    # A shell that starts `make test &` lets it ignore SIGINT, and every process inherits that. The programs under test
    # are to hear Ctrl-C, as they do when a user starts them.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # pytest imports readline, which puts the size of the terminal into the environment of each process that it starts.
    # Commands fold what they say to COLUMNS: here only where a test sets it.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
        os.unsetenv(name)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Ends whatever a test started and did not end, and names it in a warning."""
    mark = os.environ[MARK] = uuid4().hex
    yield
    if left := end(mark):
        warnings.warn("left running by a test, and ended now: " + ", ".join(left), stacklevel=1)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_for_another_test(nothing_is_left_running: None) -> Iterator[None]:
    """Ends what the tests of this process share."""
    yield
    NURSERY.close()
    VHOSTS.close()


@pytest.fixture(autouse=True)
def nothing_is_left_configured() -> Iterator[None]:
    """Forgets celeryconfig.py, which keeps what the environment was when a test first read it."""
    before = sys.modules.get("celeryconfig")
    yield
    if sys.modules.get("celeryconfig") is not before:
        sys.modules.pop("celeryconfig", None)


@pytest.fixture(scope="session")
def redis_server() -> "Iterator[EmbeddedServer]":
    """A server of our own, so that the tests need none and disturb none."""
    from choreo.local.server import EmbeddedServer

    with EmbeddedServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_client(redis_server: "EmbeddedServer") -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def redis_url(redis_server: "EmbeddedServer", redis_client: redis.Redis) -> Iterator[str]:
    yield redis_server.url
    # Some tests look through all keys, again and again: they shall not be those of all the tests before.
    redis_client.flushall()


@pytest.fixture
def rabbitmq_url() -> Iterator[str]:
    with rabbitmq_vhost(require_rabbitmq()) as url:
        yield url


@pytest.fixture
def namespace() -> str:
    """Keeps the queues, keys and exchanges of one test apart from all others."""
    return f"t{uuid4().hex[:8]}"
