"""A run that fails before its handler is called: Celery would ack the message, and nothing would be recorded."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from celery import Task
from celery.exceptions import Reject

from choreo import Context, PermanentFailure, Retry, RetryLater, Service
from choreo.errors import EnvelopeError, StoreError
from choreo.worker.handler import HandlerTask
from tests.unit.events import OrderPlaced, PaymentCharged, envelope
from tests.unit.stage import Stage, service

CALLED: list[str] = []


class RaisesInCall(Task):
    """As Flask's documentation writes it, with a database that is away."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        raise ValueError("no database")


class RaisesBefore(Task):
    def before_start(self, *_: Any) -> None:
        raise ValueError("no database")


class RaisesInRetry(Task):
    def before_start(self, *_: Any) -> None:
        if self.request.retries:
            raise ValueError("no database")


class RaisesAfterCall(Task):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        super().__call__(*args, **kwargs)
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
    monkeypatch.setattr(type(stage.store), "add_letter", lambda *_: (_ for _ in ()).throw(StoreError("away")))

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


def failing_once(**options: Any) -> tuple[list[int], Stage]:
    """A handler that asks for a retry at its first attempt, on a stage, and the attempts that it has begun."""
    seen: list[int] = []
    app = service("payment", **options)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced, context: Context) -> None:
        seen.append(context.attempt)
        if context.attempt == 1:
            raise RetryLater(60)

    return seen, Stage(app)


@pytest.mark.parametrize("lane", [True, False])
def test_the_dead_letter_of_a_retry_whose_handler_was_not_called_is_replayed(lane: bool) -> None:
    seen, stage = failing_once(task_cls=RaisesInRetry, choreo_fast_lane=lane)
    order = envelope(OrderPlaced(customer_id="alice"))
    stage.deliver(order)
    stage.deliver(order, attempt=2)
    (letter,) = stage.dead_letters
    stage.app.dead_letters.replay(letter.id)

    stage.run()

    assert seen == [1, 2]


def test_so_is_that_of_a_join_which_is_pending_until_then() -> None:
    seen: list[int] = []
    app = service("payment", task_cls=RaisesInRetry)

    @app.join(OrderPlaced, PaymentCharged, within=timedelta(hours=1))
    def ship(placed: OrderPlaced, charged: PaymentCharged, context: Context) -> None:
        seen.append(context.attempt)
        if context.attempt == 1:
            raise RetryLater(60)

    stage = Stage(app)
    stage.deliver(OrderPlaced(customer_id="alice"), subject="ORD-1")
    charged = envelope(PaymentCharged(), subject="ORD-1")
    stage.deliver(charged)
    stage.deliver(charged, attempt=2)
    (letter,) = stage.dead_letters
    stage.app.dead_letters.replay(letter.id)

    stage.run()

    assert seen == [1, 2]
    assert not list(stage.app.joins)


def test_so_is_that_of_a_retry_that_the_next_version_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, stage = failing_once()
    order = envelope(OrderPlaced(customer_id="alice"))
    stage.deliver(order)
    with monkeypatch.context() as next_version:
        refuse = EnvelopeError("no limit")
        next_version.setattr(HandlerTask, "make_delivery", lambda *_, **__: (_ for _ in ()).throw(refuse))
        stage.deliver(order, attempt=2)
    (letter,) = stage.dead_letters
    stage.app.dead_letters.replay(letter.id)

    stage.run()

    assert seen == [1, 2]


@pytest.mark.parametrize("lane", [True, False])
def test_an_error_after_the_run_makes_no_dead_letter_of_a_handled_event(lane: bool) -> None:
    app: Service = service("payment", task_cls=RaisesAfterCall, choreo_fast_lane=lane)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        CALLED.append(order.customer_id)

    CALLED.clear()
    stage = Stage(app)

    stage.deliver(OrderPlaced(customer_id="alice"))

    assert CALLED == ["alice"]
    assert not list(stage.dead_letters)
