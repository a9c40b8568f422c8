"""Fixtures of the contract tests."""

from collections.abc import Iterator

import pytest

from tests.contract.place import Place, Worker
from tests.contract.redis_broker import Corner


@pytest.fixture
def corner(redis_url: str, namespace: str) -> Iterator[Corner]:
    """A corner of the tests' own server."""
    corner = Corner(redis_url, f"{namespace}:")
    yield corner
    corner.close()


@pytest.fixture
def place(redis_url: str, namespace: str) -> Iterator[Place]:
    place = Place(redis_url, namespace)
    yield place
    place.corner.close()


@pytest.fixture
def worker(place: Place) -> Worker:
    return Worker(place)
