"""`async def` handlers on real workers: in every pool, on both brokers, with the fast lane and without."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from choreo import Reason
from choreo.events.ids import task_id
from tests.integration.async_events import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually

MakePayment = Callable[[str], Payment]
POOLS = ["solo", "threads", "prefork"]
BROKERS = ["redis", "redis, lane off", "rabbitmq", "rabbitmq, lane off"]


@pytest.fixture
def make_payment(
    request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path
) -> Iterator[MakePayment]:
    made: list[Payment] = []

    def make(broker: str) -> Payment:
        url = request.getfixturevalue("rabbitmq") if broker.startswith("rabbitmq") else redis_url
        payment = Payment(url, redis_url, namespace, tmp_path, app="async_app")
        payment.settings["choreo_fast_lane"] = not broker.endswith("lane off")
        made.append(payment)
        return payment

    yield make
    for payment in made:
        payment.close()


def published(payment: Payment, numbers: range, **about: Any) -> list[int]:
    for number in numbers:
        payment.app.publish(OrderPlaced(number=number, **about), subject=f"ORD-{number}")
    return list(numbers)


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("pool", POOLS)
def test_it_simply_works(make_payment: MakePayment, pool: str, broker: str):
    payment = make_payment(broker)
    payment.worker("--pool", pool, "-c", "4")

    numbers = published(payment, range(1, 13), seconds=0.05)
    payment.app.publish(OrderPlaced(number=99, fails=True), subject="ORD-99")

    eventually(lambda: payment.noted("shipped") == numbers)
    eventually(lambda: payment.noted("told") == [99])
    assert payment.noted("done") == payment.noted("seen")[: len(numbers)] == numbers
    assert payment.noted("begun") == [*numbers, 99, 99]
    assert payment.noted("mixed up") == []
    (letter,) = payment.app.dead_letters.find("payment")
    assert letter.error == "ValueError: no such card"


def in_hand(payment: Payment) -> int:
    """How many runs `celery inspect active` shows."""
    answers = payment.app.control.inspect(timeout=5).active() or {}
    return sum(map(len, answers.values()))


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_many_are_in_flight_without_a_thread_each(make_payment: MakePayment, pool: str, broker: str):
    payment = make_payment(broker)
    payment.worker("--pool", pool, "-c", "100")

    numbers = published(payment, range(1, 131), waits=True)

    eventually(lambda: len(payment.noted("begun")) == 100)
    assert in_hand(payment) == 100
    assert max(payment.noted("threads")) < 30
    payment.open()
    eventually(lambda: payment.noted("shipped") == numbers)
    assert payment.noted("begun") == payment.noted("done") == payment.noted("seen") == numbers
    assert payment.noted("mixed up") == []


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_that_is_killed_with_a_hundred_in_flight_loses_none(make_payment: MakePayment, pool: str, broker: str):
    payment = make_payment(broker)
    transport = {"broker_transport_options": {"consumer_timeout": 3}} if broker == "redis" else {}
    killed = payment.worker("--pool", pool, "-c", "100", **transport)
    numbers = published(payment, range(1, 101), waits=True)
    eventually(lambda: payment.noted("begun") == numbers)

    killed.kill()
    payment.open()
    payment.worker("--pool", pool, "-c", "100", name="two", **transport)

    eventually(lambda: payment.noted("shipped") == numbers)
    assert payment.noted("done") == numbers
    assert payment.noted("begun") == sorted([*numbers, *numbers])
    assert list(payment.app.dead_letters) == []


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_stopping_worker_waits_for_those_in_flight_and_returns_the_others(
    make_payment: MakePayment, pool: str, broker: str
):
    payment = make_payment(broker)
    stopping = payment.worker("--pool", pool, "-c", "5")
    numbers = published(payment, range(1, 13), waits=True)
    eventually(lambda: len(payment.noted("begun")) == 5)

    stopping.process.terminate()
    payment.worker("--pool", pool, "-c", "5", name="two")
    eventually(lambda: len(payment.noted("begun")) == 10)
    payment.open()

    assert stopping.process.wait(60) == 0
    eventually(lambda: payment.noted("shipped") == numbers)
    assert payment.noted("begun") == payment.noted("done") == numbers


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_what_is_not_done_when_the_grace_is_over_runs_elsewhere(make_payment: MakePayment, broker: str):
    payment = make_payment(broker)
    stopping = payment.worker("--pool", "threads", "-c", "20", choreo_shutdown_timeout=1)
    numbers = published(payment, range(1, 11), waits=True)
    eventually(lambda: payment.noted("begun") == numbers)

    assert stopping.stop(30) != 0
    payment.open()
    payment.worker("--pool", "threads", "-c", "20", name="two")

    eventually(lambda: payment.noted("shipped") == numbers)
    assert payment.noted("done") == numbers


@pytest.mark.parametrize(("pool", "broker"), [("solo", "redis"), ("threads", "redis"), ("threads", "rabbitmq")])
def test_a_time_limit_cancels_the_coroutine_and_the_letter_says_which(
    make_payment: MakePayment, pool: str, broker: str
):
    payment = make_payment(broker)
    payment.worker("--pool", pool, "-c", "10", "--soft-time-limit", "1", "--time-limit", "2")

    published(payment, range(1, 2), seconds=60)
    published(payment, range(2, 3), stubborn=True)
    published(payment, range(3, 4), seconds=0.01)

    eventually(lambda: payment.noted("told") == [1, 2])
    letters = {letter.envelopes[0].data["number"]: letter for letter in payment.app.dead_letters}
    assert letters[1].error == "HandlerTimeoutError: the soft time limit of 1 s was exceeded"
    assert letters[2].error == "HandlerTimeoutError: the time limit of 2 s was exceeded"
    assert {letter.reason for letter in letters.values()} == {Reason.EXHAUSTED}
    assert "async_app.py" in letters[1].traceback
    assert payment.noted("begun") == [1, 1, 2, 2, 3]
    assert payment.noted("done") == [3]
    log = payment.workers[0].log()
    assert "it swallows asyncio.CancelledError" in log
    assert "payment.charge_customer goes on 5 s after its time limit, at " in log


def test_the_limits_of_the_prefork_pool_hold_for_coroutines(make_payment: MakePayment):
    payment = make_payment("redis")
    payment.worker("--pool", "prefork", "-c", "3", "--soft-time-limit", "1", "--time-limit", "3")

    published(payment, range(1, 2), seconds=60)
    published(payment, range(2, 3), stubborn=True)

    eventually(lambda: payment.noted("told") == [1, 2])
    letters = {letter.envelopes[0].data["number"]: letter for letter in payment.app.dead_letters}
    assert letters[1].error == "SoftTimeLimitExceeded: the soft time limit of 1 s was exceeded"
    assert "HandlerTimeoutError: the time limit of 3 s was exceeded" in letters[2].error


@pytest.mark.parametrize(("pool", "broker"), [("solo", "redis"), ("threads", "rabbitmq"), ("prefork", "redis")])
def test_a_terminated_coroutine_becomes_a_dead_letter_that_says_so(make_payment: MakePayment, pool: str, broker: str):
    payment = make_payment(broker)
    payment.worker("--pool", pool, "-c", "4")
    announced = payment.app.publish(OrderPlaced(number=1, waits=True), subject="ORD-1")
    eventually(lambda: payment.noted("begun") == [1])

    payment.app.control.terminate(task_id(announced.identity, "payment.charge_customer"), signal="SIGTERM")

    (letter,) = eventually(lambda: list(payment.app.dead_letters))
    assert letter.reason is Reason.REVOKED
    assert "it was ended with signal 15 (SIGTERM) by `celery control`" in letter.error
    payment.open()
    payment.app.dead_letters.replay(letter.id)
    eventually(lambda: payment.noted("done") == [1])


def test_a_blocked_loop_is_logged_with_the_place(make_payment: MakePayment):
    payment = make_payment("redis")
    worker = payment.worker("--pool", "threads", "-c", "4")

    published(payment, range(1, 2), blocks=True)

    worker.wait_for("the event loop is blocked for more than 100 ms by payment.charge_customer, at ")
    assert "async_app.py:" in worker.wait_for("the event loop goes on after ")


def test_the_gevent_pool_refuses_async_handlers(make_payment: MakePayment):
    payment = make_payment("redis")
    payment.fresh = True
    refused = payment.begin("--pool", "gevent")

    log = refused.wait_for("asyncio does not run under gevent")

    assert "is `async def`" in log
    assert refused.process.wait(60) != 0
