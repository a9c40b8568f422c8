"""Signed events, on real workers: all that a service sends is trusted, and nothing else runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo import Reason, Service
from tests.integration.orders import OrderCancelled, OrderPacked, OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually

KEYS = {"2026-11": "the key of this test", "2026-05": "the key of an older test"}
SIGNED = {"choreo_signing_keys": KEYS, "choreo_signing": "require", "choreo_publishers": ["payment", "shop"]}


@pytest.fixture(params=["redis", "rabbitmq"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    broker = redis_url if request.param == "redis" else request.getfixturevalue("rabbitmq_url")
    payment = Payment(broker, redis_url, namespace, tmp_path, app="signed_app")
    yield payment
    payment.close()


def shop(payment: Payment, **settings: object) -> Service:
    return Service("shop", broker=payment.broker, config=payment.settings | settings, set_as_current=False)


#: The ways of a message: the shortcut, bundles of the prefork pool, coroutines' threads, and without the fast lane.
WAYS = [("solo", True), ("solo", False), ("prefork", True), ("threads", True)]


@pytest.mark.parametrize(("pool", "lane"), WAYS)
def test_what_is_signed_runs_and_the_rest_waits_for_a_person(payment: Payment, pool: str, lane: bool) -> None:
    payment.worker("--pool", pool, "-c", "1", **SIGNED, choreo_fast_lane=lane)
    older = {**SIGNED, "choreo_signing_keys": {"2026-05": KEYS["2026-05"]}}
    signed, stranger = shop(payment, **older), shop(payment)

    signed.publish_many([event.about("ORD-1") for event in (OrderPlaced(number=1), OrderPacked(number=1))])
    signed.publish(OrderCancelled(), subject="ORD-1")
    stranger.publish(OrderPlaced(number=2), subject="ORD-2")
    stranger.publish(OrderPacked(number=2), subject="ORD-2")

    eventually(
        lambda: payment.noted("shipped") == [1] and payment.noted("refunded") == [1], reason="all that is signed"
    )
    letters = eventually(lambda: (found := payment.app.dead_letters.find()) and len(found) == 2 and found)
    assert {letter.reason for letter in letters} == {Reason.UNTRUSTED}
    assert {letter.subject for letter in letters} == {"ORD-2"}
    assert payment.noted("charged") == [1]

    for letter in letters:
        payment.app.dead_letters.replay(letter.id)
    eventually(lambda: payment.noted("shipped") == [1, 2], reason="what a person has replayed")
    assert payment.app.dead_letters.find() == []
    for app in (signed, stranger):
        app.publisher.close()


def test_a_retry_that_is_due_and_what_waits_outlive_a_change_of_the_key(payment: Payment) -> None:
    old, new = {"2026-05": KEYS["2026-05"]}, {"2026-11": KEYS["2026-11"]}
    first = payment.worker("--pool", "solo", **{**SIGNED, "choreo_signing_keys": old})
    shopper = shop(payment, **{**SIGNED, "choreo_signing_keys": old})
    payment.app.pauses.pause("payment.charge_customer", reason="until the key is changed")
    shopper.publish(OrderPacked(number=1), subject="ORD-1")
    shopper.publish(OrderPlaced(number=1), subject="ORD-1")
    first.stop()

    # The first copy, which the old key has signed, and its retry, which the new one has sealed.
    second = payment.worker("--pool", "solo", **{**SIGNED, "choreo_signing_keys": new | old})
    payment.app.pauses.resume("payment.charge_customer")
    eventually(lambda: payment.noted("shipped") == [1], reason="the join of both")
    second.stop()
    payment.worker("--pool", "solo", **{**SIGNED, "choreo_signing_keys": new})
    shopper.publish(OrderPlaced(number=2), subject="ORD-2")  # by a program that was forgotten

    (letter,) = eventually(lambda: payment.app.dead_letters.find())
    assert (letter.reason, letter.subject) == (Reason.UNTRUSTED, "ORD-2")
    assert "there is no key '2026-05' in choreo_signing_keys" in letter.error
    shopper.publisher.close()


def test_unsigned_events_are_accepted_during_the_introduction(payment: Payment) -> None:
    worker = payment.worker("--pool", "solo", **{**SIGNED, "choreo_signing": "accept"})
    stranger = shop(payment)

    stranger.publish(OrderPlaced(number=1), subject="ORD-1")

    eventually(lambda: payment.noted("charged") == [1])
    assert "is not signed, and is accepted" in worker.log()
    stranger.publisher.close()
