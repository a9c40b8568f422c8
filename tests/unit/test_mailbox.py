"""A worker whose mailbox another worker has: it waits for it, and ends in time."""

import logging
from collections.abc import Iterator
from typing import Any

import amqp
import pytest
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.worker import state
from kombu.pidbox import Node

from choreo.worker import mailbox
from tests.unit.stage import service


@pytest.fixture(autouse=True)
def running() -> Iterator[None]:
    yield
    state.should_stop = None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "PAUSE", 0.02)
    monkeypatch.setattr(mailbox, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(mailbox, "PATIENCE", 0.1)


def locked(monkeypatch: pytest.MonkeyPatch, times: int) -> list[Any]:
    """Let RabbitMQ refuse the mailbox so often. Returns the tries."""
    tries: list[Any] = []

    def listen(_node: Node, *args: Any) -> str:
        tries.append(args)
        if len(tries) <= times:
            raise amqp.ResourceLocked("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue")
        return "a consumer"

    monkeypatch.setattr(Node, "listen", listen)
    return tries


def test_it_begins_as_soon_as_the_name_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = locked(monkeypatch, times=3)

    assert service("payment").control.mailbox.Node("payment@here").listen(None, None) == "a consumer"

    assert len(tries) == 4
    (record,) = caplog.records
    assert "another worker is named payment@here" in record.getMessage()
    assert "-n second@%h" in record.getMessage()


def test_it_ends_the_worker_when_the_name_stays_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    locked(monkeypatch, times=1000)

    with pytest.raises(WorkerShutdown) as ended:
        service("payment").control.mailbox.Node("payment@here").listen(None, None)

    assert ended.value.code == EX_FAILURE
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.CRITICAL]


def test_a_worker_that_waits_for_its_name_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = locked(monkeypatch, times=1000)
    state.should_stop = 0

    with pytest.raises(WorkerShutdown) as ended:
        service("payment").control.mailbox.Node("payment@here").listen(None, None)

    assert (ended.value.code, len(tries)) == (0, 1)
