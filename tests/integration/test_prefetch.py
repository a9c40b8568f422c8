"""Deliveries that a worker holds, for the rate of their handler or a countdown, do not hold up any others."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually

#: The handler `charge_customer` is paused; `watch_order` gets copies of the same events.
PAUSED = {"task_annotations": {"payment.charge_customer": {"rate_limit": "1/h"}}}


@pytest.fixture
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    broker = request.getfixturevalue("rabbitmq_url") if "rabbitmq" in request.node.name else redis_url
    payment = Payment(broker, redis_url, namespace, tmp_path)
    yield payment
    payment.close()


@pytest.mark.parametrize(
    ("pool", "fast_lane"),
    [("solo", True), ("solo", False), ("threads", True), ("prefork", True)],
    ids=["solo", "solo without the lane", "threads", "prefork"],
)
def test_a_handler_that_waits_for_its_rate_holds_up_no_other(payment: Payment, pool: str, fast_lane: bool) -> None:
    payment.worker("--pool", pool, patterns="order.placed", choreo_fast_lane=fast_lane, **PAUSED)

    for number in range(20):
        payment.app.publish(OrderPlaced(number=number))

    eventually(lambda: len(payment.noted("watched")) == 20)
    assert len(payment.noted("done")) <= 1

    payment.app.control.rate_limit("payment.charge_customer", None)
    eventually(lambda: payment.noted("done") == list(range(20)))


def test_countdowns_hold_up_no_other_task_on_rabbitmq(payment: Payment) -> None:
    payment.worker("--pool", "threads")  # a prefetch of 8

    for _ in range(30):
        payment.app.send_task("payment.note_number", [99], countdown=3600)
    for number in (1, 2):
        payment.app.send_task("payment.note_number", [number], countdown=1)
    for number in (3, 4, 5):
        payment.app.send_task("payment.note_number", [number])

    eventually(lambda: payment.noted("task") == [1, 2, 3, 4, 5])
