"""At most so many runs of a handler take place at a time, in all workers together."""

import os
import signal
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from tests.integration.orders import OrderPlaced
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


def steps(payment: Payment) -> list[int]:
    """The beginnings (number + 1) and ends (its negative) of runs, in order."""
    return [int(step) for step in payment.notes("steps")]


def begun(payment: Payment) -> list[int]:
    return [step - 1 for step in steps(payment) if step > 0]


def most_at_a_time(payment: Payment) -> int:
    return max(accumulate(1 if step > 0 else -1 for step in steps(payment)), default=0)


@pytest.mark.parametrize("pool", POOLS)
def test_two_workers_run_a_handler_once_at_a_time(payment: Payment, pool: str) -> None:
    payment.worker("--pool", pool, name="one")
    payment.worker("--pool", pool, name="two")

    for number in range(30):
        payment.app.publish(OrderPlaced(number=number, seconds=0.01))

    eventually(lambda: payment.noted("done") == list(range(30)))
    assert most_at_a_time(payment) == 1
    assert payment.noted("watched") == list(range(30))


def test_one_worker_begins_them_in_the_order_of_their_queue(payment: Payment) -> None:
    payment.worker("--pool", "threads")

    for number in range(20):
        payment.app.publish(OrderPlaced(number=number))

    eventually(lambda: len(payment.noted("done")) == 20)
    assert begun(payment) == list(range(20))


def test_so_many_runs_take_place_at_a_time_as_the_concurrency_says(payment: Payment) -> None:
    for name in ("one", "two"):
        payment.worker("--pool", "threads", "-c", "4", name=name, limit=3)

    for number in range(12):
        payment.app.publish(OrderPlaced(number=number, seconds=-1))
    eventually(lambda: len(begun(payment)) == 3)
    eventually(lambda: len(payment.noted("watched")) == 12)
    payment.open()

    eventually(lambda: len(payment.noted("done")) == 12)
    assert most_at_a_time(payment) == 3


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_what_waits_for_a_slot_holds_up_no_other_handler(payment: Payment, pool: str) -> None:
    payment.worker("--pool", pool)

    for number in range(40):
        payment.app.publish(OrderPlaced(number=number, seconds=-1))

    eventually(lambda: payment.noted("watched") == list(range(40)))
    assert begun(payment) == [0]
    payment.open()
    eventually(lambda: payment.noted("done") == list(range(40)))


@pytest.mark.parametrize("pool", POOLS)
def test_after_a_kill_another_worker_goes_on_when_the_lease_has_run_out(payment: Payment, pool: str) -> None:
    options = {"lease": 2, "broker_transport_options": {"consumer_timeout": 2}}
    first = payment.worker("--pool", pool, name="one", **options)
    for number in range(4):
        payment.app.publish(OrderPlaced(number=number, seconds=-1))
    eventually(lambda: begun(payment) == [0])
    payment.worker("--pool", pool, name="two", **options)

    first.process.kill()
    os.kill(int(payment.pid(0)), signal.SIGKILL) if pool == "prefork" else None
    eventually(lambda: len(begun(payment)) == 2)
    payment.open()

    eventually(lambda: payment.noted("done") == list(range(4)))
    after = steps(payment)[1:]  # the first run has no end
    assert max(accumulate(1 if step > 0 else -1 for step in after)) == 1


def test_a_trace_says_that_no_slot_is_free(redis_url: str, namespace: str, tmp_path: Path) -> None:
    payment = Payment(redis_url, redis_url, namespace, tmp_path, app="ordering_app")
    try:
        payment.worker("--pool", "threads")
        for number in range(2):
            payment.app.publish(OrderPlaced(number=number, seconds=-1), f"ORD-{number}")
        eventually(lambda: begun(payment) == [0])
        eventually(lambda: len(payment.noted("watched")) == 2)

        (trace,) = payment.app.observe.trace("ORD-1")

        assert "no slot of its concurrency of 1 is free" in trace.cause.text, trace
    finally:
        payment.open()
        payment.close()


def test_a_stopping_worker_gives_back_what_waits_for_a_slot(payment: Payment) -> None:
    first = payment.worker("--pool", "threads", name="one")
    for number in range(5):
        payment.app.publish(OrderPlaced(number=number, seconds=-1))
    eventually(lambda: begun(payment) == [0])
    eventually(lambda: len(payment.noted("watched")) == 5)
    payment.worker("--pool", "threads", name="two")

    first.process.terminate()
    payment.open()

    eventually(lambda: payment.noted("done") == list(range(5)))
    assert first.process.wait(60) == 0
    assert most_at_a_time(payment) == 1
