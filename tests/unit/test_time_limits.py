"""The time limits of a handler, and those that remote control sets, reach the pool with each run."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel
from kombu.transport.virtual import Message

from choreo.broker.queue import run_headers
from tests.unit.events import OrderPlaced, envelope
from tests.unit.stage import service

pytestmark = pytest.mark.filterwarnings("ignore::celery.platforms.SecurityWarning")


def node(pool: str, *, fast_lane: bool = True, **options: Any) -> Any:
    """What the command gets of a worker that is never started. Its pool keeps the options of each run in ``runs``."""
    app = service("payment")
    app.conf.choreo_fast_lane = fast_lane

    @app.on(OrderPlaced, **options)
    def charge(order: OrderPlaced) -> None: ...

    consumer = app.Worker(pool=pool).consumer
    runs: list[dict[str, Any]] = []
    consumer.pool.apply_async = lambda *_, **about: runs.append(about)
    consumer.on_task_request = lambda request: request.execute_using_pool(consumer.pool)
    consumer.connection = app.connection_for_read()
    consumer.update_strategies()
    return SimpleNamespace(app=app, consumer=consumer, runs=runs)


def limits_of_a_run(state: Any) -> tuple[float | None, float | None]:
    """Let the worker receive an event. Returns the limits, soft and hard, that its pool is told."""
    message = Message(
        {
            "body": "[[], {}, {}]",
            "headers": run_headers("payment.charge", envelope(OrderPlaced(customer_id="alice")), 0),
            "properties": {"delivery_tag": "1", "delivery_info": {"routing_key": "payment.charge"}},
            "content-type": "application/json",
            "content-encoding": "utf-8",
        },
        channel=SimpleNamespace(decode_body=lambda body, _: body),
    )
    message._decoded_cache = [["{}"], {}, {}]
    state.consumer.strategies["payment.charge"](message, None, None, None, ())
    return state.runs[-1]["soft_timeout"], state.runs[-1]["timeout"]


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast lane", "without it"])
def test_the_limits_of_a_handler_reach_the_pool(fast_lane: bool) -> None:
    assert limits_of_a_run(node("prefork", fast_lane=fast_lane)) == (None, None)
    assert limits_of_a_run(node("prefork", fast_lane=fast_lane, time_limit=30, soft_time_limit=20)) == (20, 30)


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast lane", "without it"])
def test_the_next_runs_get_the_new_limits(fast_lane: bool) -> None:
    state = node("prefork", fast_lane=fast_lane, time_limit=30)

    change = Panel.data["time_limit"]
    assert "ok" in change(state, task_name="payment.charge", soft=5, hard=10)
    state.consumer.perform_pending_operations()
    assert limits_of_a_run(state) == (5, 10)

    change(state, task_name="payment.charge")
    state.consumer.perform_pending_operations()
    assert limits_of_a_run(state) == (None, None)


@pytest.mark.parametrize("limits", [{"soft": 10, "hard": 10}, {"hard": -1}, {"soft": "5"}, {"hard": float("inf")}])
def test_limits_that_cannot_hold_are_refused(limits: dict[str, Any]) -> None:
    state = node("prefork", time_limit=30)

    assert "seconds" in Panel.data["time_limit"](state, task_name="payment.charge", **limits)["error"]

    assert limits_of_a_run(state) == (None, 30)
