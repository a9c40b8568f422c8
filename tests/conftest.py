"""Fixtures that every tier shares."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from choreo.local.server import EmbeddedServer
from tests.servers import rabbitmq_vhost, require_rabbitmq


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
