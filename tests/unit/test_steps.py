"""The steps of a worker: it waits for the store at its start, as Celery waits for the broker."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import WorkerShutdown
from celery.worker import state

from choreo.errors import StoreError
from choreo.worker import steps
from choreo.worker.steps import ClockStep
from tests.unit.events import OrderPlaced
from tests.unit.stage import service


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    monkeypatch.setattr(steps, "PAUSE_SECONDS", (0.01,))
    return SimpleNamespace(app=app)


def away(monkeypatch: pytest.MonkeyPatch, worker: Any, times: float) -> list[int]:
    """Let the store be away so many times. Returns the list of the calls."""
    calls: list[int] = []
    register = worker.app.runtime.store.register

    def refuse(names: list[str]) -> None:
        calls.append(len(calls))
        if len(calls) <= times:
            raise StoreError("the call to the store failed")
        register(names)

    monkeypatch.setattr(worker.app.runtime.store, "register", refuse)
    return calls


def test_a_worker_waits_for_a_store_that_is_away_at_its_start(monkeypatch, worker, caplog):
    calls = away(monkeypatch, worker, 3)
    step = ClockStep(worker)

    step.start(worker)
    step.stop(worker)

    assert len(calls) == 4
    assert "payment.charge" in worker.app.runtime.store.handlers()
    assert "this worker begins once the store is back, and asks again in 0.01 s" in caplog.text


def test_it_does_not_wait_if_the_user_wants_no_retry_on_startup(monkeypatch, worker):
    away(monkeypatch, worker, 1)
    worker.app.conf.broker_connection_retry_on_startup = False

    with pytest.raises(StoreError):
        ClockStep(worker).start(worker)


def test_a_waiting_worker_can_be_stopped(monkeypatch, worker):
    away(monkeypatch, worker, float("inf"))
    monkeypatch.setattr(state, "should_stop", 0)

    with pytest.raises(WorkerShutdown):
        ClockStep(worker).start(worker)
