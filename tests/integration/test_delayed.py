"""Delayed events that are due when the first worker starts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually


@pytest.fixture(params=["rabbitmq", "redis"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    broker = request.getfixturevalue("rabbitmq") if request.param == "rabbitmq" else redis_url
    payment = Payment(broker, redis_url, namespace, tmp_path)
    yield payment
    payment.close()


def test_a_due_event_waits_until_the_queues_of_the_first_worker_exist(payment: Payment) -> None:
    payment.app.publish(OrderPlaced(number=1), delay=0.1)

    # Several looks of a clock long.
    payment.worker("--pool", "threads", dawdles=2)

    eventually(lambda: payment.noted("done") == [1])
