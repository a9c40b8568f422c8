"""A run that fails before its handler is called: Celery would ack the message, and nothing would be recorded."""

from contextlib import suppress
from typing import Any

import pytest
from celery import Task
from celery.exceptions import Reject

from choreo import PermanentFailure, Retry, Service
from choreo.errors import StoreError
from tests.unit.events import OrderPlaced
from tests.unit.stage import Stage, service

CALLED: list[str] = []


class RaisesInCall(Task):
    """As Flask's documentation writes it, with a database that is away."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        raise ValueError("no database")


class RaisesBefore(Task):
    def before_start(self, *_: Any) -> None:
        raise ValueError("no database")


class RaisesAfter(Task):
    def on_failure(self, *_: Any) -> None:
        raise ValueError("no database")


def make(base: type[Task], lane: bool) -> Stage:
    CALLED.clear()
    app: Service = service("payment", task_cls=base, retry=Retry(times=0), choreo_fast_lane=lane)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        CALLED.append(order.customer_id)
        raise PermanentFailure("no account")

    return Stage(app)


@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize("base", [RaisesInCall, RaisesBefore])
def test_an_event_whose_handler_was_not_called_becomes_a_dead_letter(base: type[Task], lane: bool) -> None:
    stage = make(base, lane)

    stage.deliver(OrderPlaced(customer_id="alice"), subject="ORD-1")

    (letter,) = stage.dead_letters
    assert letter.handler == "payment.charge"
    assert "ValueError: no database" in letter.error
    assert b"ORD-1" in letter.message.body
    assert CALLED == []


@pytest.mark.parametrize("base", [RaisesInCall, RaisesBefore])
def test_without_a_store_it_stays_in_its_queue(base: type[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make(base, True)
    monkeypatch.setattr(type(stage.store), "bury", lambda *_: (_ for _ in ()).throw(StoreError("away")))

    with pytest.raises(Reject) as raised:
        stage.deliver(OrderPlaced(customer_id="alice"))

    assert raised.value.requeue
    assert not list(stage.dead_letters)


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize("base", [Task, RaisesAfter])
def test_a_handler_that_was_called_makes_one_dead_letter(base: type[Task], lane: bool) -> None:
    stage = make(base, lane)

    with suppress(PermanentFailure, ValueError):  # Celery raises the error of a hook
        stage.deliver(OrderPlaced(customer_id="alice"))

    (letter,) = stage.dead_letters
    assert letter.reason == "refused"
    assert CALLED == ["alice"]
