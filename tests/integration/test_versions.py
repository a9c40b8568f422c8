"""A field is renamed while a platform runs: old and new code publish and read at once, and no event is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo import DeadLetter, Event, Reason
from tests.integration.trips import SeatTaken, TripBooked, TripBookedFirst
from tests.integration.workers import Payment
from tests.servers import rabbitmq_vhost, require_rabbitmq
from tests.waiting import eventually


@pytest.fixture(params=["redis", "rabbitmq"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    if request.param == "redis":
        payment = Payment(redis_url, redis_url, namespace, tmp_path, app="versions_app")
        yield payment
        payment.close()
        return
    with rabbitmq_vhost(require_rabbitmq()) as url:
        payment = Payment(url, redis_url, namespace, tmp_path, app="versions_app")
        yield payment
        payment.close()


def announce(payment: Payment, event: Event) -> None:
    payment.app.publish(event, subject="a trip")


def has(payment: Payment, what: str, numbers: range) -> None:
    eventually(lambda: len(payment.noted(what)) >= len(numbers), reason=f"{len(numbers)} {what}")
    assert payment.noted(what) == list(numbers)


def test_a_field_is_renamed_and_each_event_is_handled_once(payment: Payment) -> None:
    old = payment.worker("-P", "solo", name="old", new=False)
    announce(payment, TripBookedFirst(number=0))
    eventually(lambda: payment.noted("tried"), reason="a failed attempt")
    for number in range(1, 10):
        announce(payment, TripBookedFirst(number=number))
    has(payment, "charged", range(1, 10))

    # The publisher is deployed before its readers, which is the wrong order.
    for number in range(10, 20):
        announce(payment, TripBooked(trip=number, seats=2))
    eventually(lambda: len(unread(payment)) == 20, reason="a dead letter of each")

    # For a while, both run.
    payment.worker("-P", "solo", name="new", new=True)
    for number in range(20, 60):
        announce(payment, TripBookedFirst(number=number) if number % 2 else TripBooked(trip=number, seats=2))
    eventually(lambda: len(payment.noted("charged")) + len(unread(payment, "charge_customer")) == 60, reason="all")
    old.stop()

    for letter in unread(payment):
        payment.app.dead_letters.replay(letter.id)
    for number in range(60):
        announce(payment, SeatTaken(trip=number))
    has(payment, "charged", range(60))
    has(payment, "assigned", range(60))
    assert unread(payment) == []


def unread(payment: Payment, handler: str = "") -> list[DeadLetter]:
    """The dead letters of events that old code could not read. There are no others."""
    letters = list(payment.app.dead_letters)
    assert {letter.reason for letter in letters} <= {Reason.VERSION}
    return [letter for letter in letters if handler in letter.handler]
