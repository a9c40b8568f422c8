"""Handlers that are ended from outside: by a time limit, by a stop, or by their own process. On real workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo import DeadLetter, Reason
from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually

FOR_EVER = -1.0


@pytest.fixture(params=["rabbitmq", "redis"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    broker = request.getfixturevalue("rabbitmq") if request.param == "rabbitmq" else redis_url
    payment = Payment(broker, redis_url, namespace, tmp_path, app="endings_app")
    yield payment
    payment.close()


def letter_of(payment: Payment, number: int) -> DeadLetter:
    def found() -> list[DeadLetter]:
        letters = payment.app.dead_letters.find("payment")
        return [letter for letter in letters if letter.envelopes[0].data["number"] == number]

    (letter,) = eventually(found, reason="a dead letter")
    return letter


def test_what_exceeds_its_time_limit_is_begun_again_and_parked_in_the_end(payment: Payment):
    payment.worker("--pool", "prefork", "--time-limit", "1")

    payment.app.publish(OrderPlaced(number=1, seconds=FOR_EVER))
    payment.app.publish(OrderPlaced(number=2, seconds=0.01))

    eventually(lambda: payment.noted("done") == [2])
    letter = letter_of(payment, 1)
    assert (letter.reason, letter.error) == (Reason.POISON, "begun 3 times and never finished")
    assert payment.noted("begun").count(1) == 2
    eventually(lambda: payment.noted("told") == [1])


@pytest.mark.parametrize("pool", ["threads", "solo"])
@pytest.mark.parametrize("option", ["--time-limit", "--soft-time-limit"])
def test_a_pool_that_cannot_end_a_handler_refuses_time_limits(
    redis_url: str, namespace: str, tmp_path: Path, pool: str, option: str
):
    payment = Payment(redis_url, redis_url, namespace, tmp_path, app="endings_app")

    with pytest.raises(AssertionError) as refused:
        payment.worker("--pool", pool, option, "3")

    payment.close()
    assert f"the {pool} pool cannot end a handler" in str(refused.value)
    assert "--pool prefork" in str(refused.value)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_stops_that_lost_their_patience_do_not_make_a_long_handler_poison(payment: Payment, pool: str):
    for deployment in range(1, 4):
        worker = payment.worker("--pool", pool, name=f"w{deployment}", choreo_shutdown_timeout=0.2)
        if deployment == 1:
            payment.app.publish(OrderPlaced(number=1, seconds=5))
        eventually(lambda: payment.noted("begun").count(1) >= deployment)  # noqa: B023 - it ends in this turn
        worker.stop()

    payment.worker("--pool", pool, name="last")
    eventually(lambda: payment.noted("done") == [1])
    assert payment.app.dead_letters.find("payment") == []


def test_a_dead_letter_handler_that_ends_its_process_is_not_called_for_ever(payment: Payment):
    worker = payment.worker("--pool", "prefork")

    payment.app.publish(OrderPlaced(number=13, seconds=0))

    worker.wait_for("ended its worker too often")
    eventually(lambda: payment.noted("told") == [13, 13])
    payment.app.publish(OrderPlaced(number=14, seconds=0))
    eventually(lambda: payment.noted("told") == [13, 13, 14])
    assert letter_of(payment, 13).reason is Reason.REFUSED
