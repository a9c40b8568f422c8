"""Handlers that are ended from outside: by a time limit, by a stop, or by their own process. On real workers."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo import DeadLetter, Reason
from choreo.events.ids import task_id
from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually

BOTH_WAYS = pytest.mark.parametrize("payment", ["rabbitmq", "redis", "redis, lane off"], indirect=True)
FOR_EVER = -1.0
#: See `endings_app`.
WAITS = 1000.0


@pytest.fixture(params=["rabbitmq", "redis"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    broker = request.getfixturevalue("rabbitmq") if request.param == "rabbitmq" else redis_url
    payment = Payment(broker, redis_url, namespace, tmp_path, app="endings_app")
    payment.settings["choreo_fast_lane"] = request.param != "redis, lane off"
    yield payment
    payment.close()


def letter_of(payment: Payment, number: int) -> DeadLetter:
    def found() -> list[DeadLetter]:
        letters = payment.app.dead_letters.find("payment")
        return [letter for letter in letters if letter.envelopes[0].data["number"] == number]

    (letter,) = eventually(found, reason="a dead letter")
    return letter


@BOTH_WAYS
def test_what_exceeds_its_time_limit_fails_and_its_dead_letter_says_so(payment: Payment):
    payment.worker("--pool", "prefork", "--time-limit", "1", "-c", "3")

    payment.app.publish(OrderPlaced(number=1, seconds=FOR_EVER))
    payment.app.publish(OrderPlaced(number=2, seconds=60))
    payment.app.publish(OrderPlaced(number=3, seconds=0.01))

    for number in (1, 2):
        letter = letter_of(payment, number)
        assert letter.reason is Reason.EXHAUSTED
        text = r"HandlerTimeoutError: the time limit of 1 s was exceeded: process \d+ of payment.one@.+"
        assert re.fullmatch(text, letter.error)
        assert payment.noted("begun").count(number) == 2
    eventually(lambda: payment.noted("told") == [1, 2])
    assert payment.noted("done") == [3]


def test_a_soft_time_limit_says_how_long_it_is(payment: Payment):
    payment.worker("--pool", "prefork", "--soft-time-limit", "1")

    payment.app.publish(OrderPlaced(number=1, seconds=60))

    letter = letter_of(payment, 1)
    assert letter.error == "SoftTimeLimitExceeded: the soft time limit of 1 s was exceeded"
    assert letter.reason is Reason.EXHAUSTED


@BOTH_WAYS
def test_a_terminated_run_becomes_a_dead_letter_that_says_so_and_its_replay_runs(payment: Payment):
    payment.worker("--pool", "prefork", "-c", "3")
    signals = {1: "SIGTERM", 2: "SIGKILL", 3: "SIGHUP"}
    for number in signals:
        announced = payment.app.publish(OrderPlaced(number=number, seconds=WAITS))
        eventually(lambda: number in payment.noted("begun"))  # noqa: B023 - it ends in this turn
        payment.app.control.terminate(task_id(announced.identity, "payment.charge_customer"), signal=signals[number])

    letters = [letter_of(payment, number) for number in signals]
    payment.open()
    for letter, name in zip(letters, signals.values(), strict=True):
        assert letter.reason is Reason.REVOKED
        assert f"({name}) by `celery control`: process " in letter.error
        payment.app.dead_letters.replay(letter.id)
    eventually(lambda: payment.noted("done") == [1, 2, 3])
    assert payment.noted("begun") == [1, 1, 2, 2, 3, 3]


def test_a_terminated_run_of_the_gevent_pool_becomes_a_dead_letter_too(redis_url: str, namespace: str, tmp_path: Path):
    payment = Payment(redis_url, redis_url, namespace, tmp_path, app="endings_app")
    with payment.worker("--pool", "gevent"):
        announced = payment.app.publish(OrderPlaced(number=1, seconds=WAITS))
        eventually(lambda: payment.noted("begun"))
        payment.app.control.terminate(task_id(announced.identity, "payment.charge_customer"), signal="SIGTERM")

        letter = letter_of(payment, 1)

        assert (letter.reason, payment.noted("begun")) == (Reason.REVOKED, [1])
        payment.open()
        payment.app.dead_letters.replay(letter.id)
        eventually(lambda: payment.noted("done") == [1])
    payment.close()


def test_a_poison_letter_says_which_signal_process_and_host_ended_it(payment: Payment):
    payment.worker("--pool", "prefork", "-c", "1")
    payment.app.publish(OrderPlaced(number=1, seconds=WAITS))

    killed = ""
    for _ in range(2):
        killed = eventually(lambda: payment.pid(1) not in ("", killed) and payment.pid(1))  # noqa: B023
        os.kill(int(killed), signal.SIGKILL)

    letter = letter_of(payment, 1)
    assert letter.reason is Reason.POISON
    host = socket.gethostname()
    assert letter.error == (
        f"begun 3 times and never finished; the last time process {killed} of payment.one@payment.{host} ended with "
        f"signal 9 (SIGKILL)"
    )


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
