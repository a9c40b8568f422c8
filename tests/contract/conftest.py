"""Fixtures of the contract tests."""

from collections.abc import Iterator

import pytest

from tests.contract.redis_broker import Corner


@pytest.fixture
def corner(redis_url: str, namespace: str) -> Iterator[Corner]:
    """A corner of the tests' own server."""
    corner = Corner(redis_url, f"{namespace}:")
    yield corner
    corner.close()
