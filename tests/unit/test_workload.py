"""What a worker is doing, looked at while its pool's threads change it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
from billiard.pool import ApplyResult
from celery.worker import state

from choreo.broker.workload import listed, started_tags


class Changing:
    """A set that a thread adds to while it is listed."""

    def __init__(self, changes: int) -> None:
        self.changes = changes

    def __iter__(self) -> Iterator[int]:
        yield 1
        if self.changes:
            self.changes -= 1
            raise RuntimeError("Set changed size during iteration")
        yield 2


def test_what_changes_while_it_is_listed_is_listed_again():
    assert listed(Changing(2)) == [1, 2]


class Request:
    """What is asked of Celery's."""

    def __init__(self, tag: str, job: ApplyResult | None = None) -> None:
        self.id = self.name = tag
        self.message = SimpleNamespace(delivery_tag=tag)
        self._apply_result = job and ref(job)


@pytest.fixture
def jobs() -> Iterator[dict[Any, Any]]:
    """The jobs of a pool, which alone keeps them alive."""
    state.reset_state()
    yield {}
    state.reset_state()


def test_what_was_written_to_a_pool_child_counts_as_begun(jobs: dict[Any, Any]):
    written, waiting, ended = (ApplyResult(jobs, None) for _ in range(3))
    written._write_to = ended._write_to = object()
    requests = [Request("active"), Request("in the semaphore"), Request("written", written)]
    requests += [Request("in the buffer", waiting), Request("ended", ended)]
    ended.discard()
    del ended
    for request in requests:
        state.task_reserved(request)
    state.task_accepted(requests[0])

    assert started_tags() == {"active", "written"}
