"""A slow handler holds up the others of its worker for one place at most."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.orders import OrderCharged, OrderPacked
from tests.integration.workers import Payment
from tests.waiting import eventually


@pytest.fixture(params=["redis", "rabbitmq"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    broker = request.getfixturevalue("rabbitmq_url") if request.param == "rabbitmq" else redis_url
    payment = Payment(broker, redis_url, namespace, tmp_path, app="ordering_app")
    yield payment
    payment.open()
    payment.close()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_an_event_of_a_quick_handler_waits_for_one_place_only(payment: Payment, pool: str) -> None:
    payment.worker("--pool", pool)  # two places, a prefetch of 8

    payment.app.publish_many(OrderCharged(number=number) for number in range(6))
    eventually(lambda: len(payment.notes("slow")) == 2)
    payment.app.publish(OrderPacked(number=100))
    # On Redis the prefetch is that of all queues, so the six leave room for it.
    eventually(lambda: is_received(payment))
    payment.let(1)

    eventually(lambda: "packed" in payment.notes("begins"))
    payment.open()
    eventually(lambda: payment.notes("begins").count("inspected") == 6)
    assert payment.notes("begins")[:3] == ["inspected", "inspected", "packed"]


def is_received(payment: Payment) -> bool:
    """True if the worker has the event of the quick handler."""
    answers = payment.app.control.inspect(timeout=1).reserved() or {}
    return any(request["name"] == "payment.pack" for requests in answers.values() for request in requests)
