"""Events of one key are handled one after another, with real workers."""

import os
import signal
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from tests.integration.orders import StockMoved
from tests.integration.workers import Payment
from tests.waiting import eventually

POOLS = ["solo", "threads", "prefork"]


@pytest.fixture(params=["redis", "rabbitmq"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    broker = request.getfixturevalue("rabbitmq_url") if request.param == "rabbitmq" else redis_url
    payment = Payment(broker, redis_url, namespace, tmp_path, app="ordering_app")
    yield payment
    payment.open()
    payment.close()


def steps(payment: Payment, subject: str) -> list[int]:
    """The beginnings (number + 1) and ends (its negative; -1000: of a failure) of runs, in order."""
    return [int(step) for step in payment.notes(f"steps:{subject}")]


def done(payment: Payment, subject: str) -> list[int]:
    """The numbers of the events that were handled, in order."""
    return [-step - 1 for step in steps(payment, subject) if -1000 < step < 0]


def begun(payment: Payment, subject: str) -> list[int]:
    return [step - 1 for step in steps(payment, subject) if step > 0]


def most_at_a_time(steps: list[int]) -> int:
    return max(accumulate(1 if step > 0 else -1 for step in steps), default=0)


def booked(payment: Payment, count: int) -> None:
    eventually(lambda: len(payment.noted("booked")) >= count)
    assert payment.noted("booked") == list(range(count))


@pytest.mark.parametrize("pool", POOLS)
def test_the_events_of_a_subject_are_handled_in_the_order_of_their_announcement(payment: Payment, pool: str) -> None:
    payment.worker("--pool", pool, "-c", "1" if pool == "solo" else "4")

    # In one go, so that the places of the pool begin several events of a subject at once.
    events = [StockMoved(number=number, seconds=0.005).about(f"SKU-{number // 5 % 4}") for number in range(60)]
    payment.app.publish_many(events)

    booked(payment, 60)
    for shelf in range(4):
        assert done(payment, f"SKU-{shelf}") == [number for number in range(60) if number // 5 % 4 == shelf]
        assert most_at_a_time(steps(payment, f"SKU-{shelf}")) == 1
    if pool != "solo":
        assert most_at_a_time([int(step) for step in payment.notes("booking")]) > 1


@pytest.mark.parametrize("pool", POOLS)
def test_two_workers_handle_one_event_of_a_subject_at_a_time(payment: Payment, pool: str) -> None:
    for name in ("one", "two"):
        payment.worker("--pool", pool, "-c", "1" if pool == "solo" else "4", name=name)

    for number in range(60):
        payment.app.publish(StockMoved(number=number, seconds=0.005), f"SKU-{number % 3}")

    booked(payment, 60)
    for shelf in range(3):
        assert most_at_a_time(steps(payment, f"SKU-{shelf}")) == 1


def test_a_retry_holds_its_subject_and_no_other(payment: Payment) -> None:
    payment.worker("--pool", "threads", "-c", "4")

    payment.app.publish(StockMoved(number=0, fails=2), "SKU-0")
    for number in range(1, 10):
        payment.app.publish(StockMoved(number=number), f"SKU-{number % 2}")

    booked(payment, 10)
    assert begun(payment, "SKU-0") == [0, 0, 0, 2, 4, 6, 8]
    assert done(payment, "SKU-1") == [1, 3, 5, 7, 9]


def test_a_retry_may_let_the_others_pass(payment: Payment) -> None:
    payment.worker("--pool", "prefork", passes=True)

    payment.app.publish(StockMoved(number=0, fails=1), "SKU-0")
    for number in (1, 2):
        payment.app.publish(StockMoved(number=number), "SKU-0")

    booked(payment, 3)
    assert begun(payment, "SKU-0") == [0, 1, 2, 0]


@pytest.mark.parametrize("pool", POOLS)
def test_after_a_kill_the_subject_goes_on_in_order_and_nothing_is_lost(payment: Payment, pool: str) -> None:
    options = {"lease": 2, "broker_transport_options": {"consumer_timeout": 2}}
    first = payment.worker("--pool", pool, name="one", **options)
    for number in range(6):
        payment.app.publish(StockMoved(number=number, seconds=-1), "SKU-0")
    eventually(lambda: begun(payment, "SKU-0") == [0])
    payment.worker("--pool", pool, name="two", **options)

    first.process.kill()
    if pool == "prefork":
        os.kill(int(payment.pid(0)), signal.SIGKILL)
    eventually(lambda: begun(payment, "SKU-0") == [0, 0])
    payment.open()

    booked(payment, 6)
    assert done(payment, "SKU-0") == list(range(6))


def test_an_event_that_ends_in_a_dead_letter_lets_the_next_one_go_on(payment: Payment) -> None:
    payment.worker("--pool", "threads")

    payment.app.publish(StockMoved(number=7, fails=9), "SKU-0")
    payment.app.publish(StockMoved(number=0), "SKU-0")

    booked(payment, 1)
    assert begun(payment, "SKU-0") == [7, 7, 7, 7, 0]
    assert len(payment.app.dead_letters.find()) == 1
