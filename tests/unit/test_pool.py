"""The prefork pool: killed children are replaced, and a worker that must end because of its pool says so."""

import logging
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import WorkerLostError, WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.worker.consumer import Consumer

from choreo.errors import DeclarationError
from choreo.worker.pool import describe_loss, replace_killed, watch_again
from tests.unit.stage import service

pytestmark = pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")


class Pool(TaskPool):
    """A prefork pool whose children have ended with these codes; None: it runs."""

    def __init__(self, *codes: int | None) -> None:
        self._pool: Any = SimpleNamespace(_pool=[SimpleNamespace(exitcode=code) for code in codes])
        self.maintained = 0

    def maintain_pool(self) -> None:
        self.maintained += 1


def test_children_that_were_killed_while_the_worker_started_are_replaced_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = Pool(None, -signal.SIGKILL)

    replace_killed(pool)

    assert pool.maintained == 1
    assert "1 pool process(es) were killed while the worker was starting" in caplog.text


@pytest.mark.parametrize("pool", [Pool(None, None), Pool(-9, 1), Pool(1), SoloPool(1)])
def test_a_child_that_ended_by_itself_is_left_to_celery_which_ends_the_worker(pool: Any) -> None:
    replace_killed(pool)

    assert getattr(pool, "maintained", 0) == 0


def test_a_child_that_celery_stopped_to_watch_is_watched_by_the_next_event_loop() -> None:
    pool = Pool(None, None)
    lost, watched = pool._pool._pool
    lost._sentinel_poll, watched._sentinel_poll = None, 5

    watch_again(pool)

    # Celery opens it anew where it is missing, and fails where it is None.
    assert not hasattr(lost, "_sentinel_poll")
    assert watched._sentinel_poll == 5


def raised(function: Any, *args: Any) -> BaseException:
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def full_pool() -> Any:
    return SimpleNamespace(_queues={})


def looping(pool: Any) -> Any:
    yield
    yield AsynPool.get_process_queues(pool)


def in_a_loop(pool: Any) -> None:
    for _ in looping(pool):
        pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WorkerLostError("Could not start worker processes"), "Could not start worker processes. A pool process ended"),
        (raised(AsynPool.get_process_queues, full_pool()), "at which Celery cannot replace it"),
    ],
)
def test_a_pool_that_cannot_go_on_ends_the_worker_with_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = a_consumer()
    monkeypatch.setattr(Consumer, "start", lambda _: fail_with(error))

    with pytest.raises(WorkerShutdown) as ended, caplog.at_level(logging.CRITICAL):
        consumer.start()

    assert ended.value.code == EX_FAILURE
    (record,) = caplog.records
    assert said in record.getMessage()
    assert "must be started again" in record.getMessage()
    assert not record.exc_info


def fail_with(error: Exception) -> None:
    raise error


def a_consumer() -> Any:
    app = service("payment")
    app.conf.worker_hijack_root_logger = False  # pytest listens there
    return app.Worker(pool="solo").consumer


def test_a_setting_that_cannot_work_ends_the_worker_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = a_consumer()
    monkeypatch.setattr(Consumer, "start", lambda _: fail_with(DeclarationError("no such queue", place="")))

    with pytest.raises(WorkerShutdown):
        consumer.start()

    assert [record.getMessage() for record in caplog.records] == [f"{consumer.hostname} ends: no such queue"]


def test_any_other_error_is_none_of_the_pool() -> None:
    assert describe_loss(raised(lambda: {}["x"])) is None
    assert describe_loss(raised(os.stat, "/nowhere")) is None
    assert describe_loss(raised(in_a_loop, full_pool())) is not None
