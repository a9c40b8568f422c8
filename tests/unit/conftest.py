"""Fixtures of the unit tests."""

from collections.abc import Iterator

import pytest
from celery._state import _set_task_join_will_block


@pytest.fixture(autouse=True)
def no_pool_is_left() -> Iterator[None]:
    """A worker that a test made for a look at it has told Celery that this process runs tasks: take that back."""
    yield
    _set_task_join_will_block(False)
