"""Fixtures of the unit tests."""

from collections.abc import Iterator

import pytest
from celery._state import _set_task_join_will_block
from celery.worker import state


@pytest.fixture(autouse=True)
def no_pool_is_left() -> Iterator[None]:
    """
    Take back what a worker that a test made for a look at it has told Celery: that this process runs tasks, and which.

    Celery keeps that once for a process, and the next test would find the requests of the one before.
    """
    yield
    _set_task_join_will_block(False)
    state.requests.clear()
    state.reserved_requests.clear()
    state.active_requests.clear()
