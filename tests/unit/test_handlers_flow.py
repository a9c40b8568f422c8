"""The reference platform as a whole, on a stage: an order from its first event to its last."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo import StoryOverdue
from choreo.testing import Stage, stage
from handlers import analytics, driver, loyalty, notification, order, payment, restaurant
from handlers.events import (
    DriverAssigned,
    OrderDelayed,
    OrderPlaced,
    PaymentCharged,
    PaymentFailed,
    PaymentRefunded,
)

SERVICES = [module.app for module in (order, restaurant, payment, driver, notification, analytics, loyalty)]


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("CHOREO_DATA", str(tmp_path))
    with stage(*SERVICES) as platform:
        yield platform


def ordered(platform: Stage, customer: str = "alice", at: str = "pizza-palace") -> str:
    """An order of this customer, and everything that follows from it at once."""
    order_id = order.place_order(customer, at, ["margherita"], 2599)
    platform.run()
    return order_id


def texts(order_id: str) -> list[str]:
    rows = notification.ledger.rows("SELECT text FROM messages WHERE order_id = ?", order_id)
    return [row["text"] for row in rows]


def test_an_order_is_charged_cooked_and_delivered(platform: Stage):
    order_id = ordered(platform)

    [assigned] = platform.announced(DriverAssigned, subject=order_id)
    assert assigned.driver_id in driver.DRIVERS
    assert texts(order_id) == [f"Your driver {assigned.driver_id} is on the way: 27 minutes."]
    assert loyalty.balance("alice") == 25
    assert analytics.counts() == dict.fromkeys(
        ["order.placed", "order.confirmed_by_restaurant", "payment.charged", "driver.assigned"], 1
    )
    assert platform.joins == platform.dead_letters == []


def test_an_order_that_cannot_be_cooked_is_paid_back(platform: Stage):
    order_id = ordered(platform, at="night-owl")

    assert platform.announced(PaymentRefunded, subject=order_id).one().amount_cents == 2599
    assert platform.announced(DriverAssigned) == platform.joins == []
    assert loyalty.balance("alice") == 0


def test_a_flaky_card_is_charged_at_the_third_attempt(platform: Stage):
    order_id = ordered(platform, customer="carol")
    assert platform.announced(PaymentCharged) == []

    platform.advance(minutes=1)

    charges = [made for made in platform.deliveries if made.handler == "payment.charge_customer"]
    assert [made.attempt for made in charges] == [1, 2, 3]
    assert len(platform.announced(DriverAssigned, subject=order_id)) == 1


def test_an_expired_card_ends_the_order(platform: Stage):
    order_id = ordered(platform, customer="olga")
    platform.advance(days=8)

    assert platform.announced(PaymentFailed, subject=order_id).one().reason == "the card has expired"
    assert platform.announced(DriverAssigned) == platform.announced(OrderDelayed) == platform.joins == []


def test_a_frozen_account_is_for_somebody_to_look_at_and_the_order_is_late(platform: Stage):
    order_id = ordered(platform, customer="victor")
    [letter] = platform.dead_letters
    assert letter.handler == "payment.charge_customer"

    platform.advance(minutes=30)

    assert platform.announced(OrderDelayed, subject=order_id).one().missing == "the payment"


def test_an_order_that_does_not_end_alarms_an_operator_and_is_listed(platform: Stage):
    order_id = ordered(platform, customer="victor")
    platform.advance(minutes=44)
    notification.ledger.write("DELETE FROM alarms")  # that of the dead letter
    assert [(story.key, story.step, story.overdue) for story in platform.stories] == [(order_id, 2, False)]

    platform.advance(minutes=1)

    overdue = platform.announced(StoryOverdue, subject=order_id).one()
    assert (overdue.story, overdue.missing) == ("delivery", ["payment.charged"])
    (alarm,) = notification.ledger.rows("SELECT * FROM alarms")
    assert (alarm["order_id"], alarm["error"]) == (order_id, "delivery overdue, without payment.charged")
    assert [(story.waits_for, story.overdue) for story in platform.stories] == [("payment.charged", True)]


def test_a_payment_that_fails_for_good_alarms_an_operator_of_another_service(platform: Stage):
    order_id = ordered(platform, customer="victor")
    platform.run()

    (alarm,) = notification.ledger.rows("SELECT * FROM alarms")
    assert (alarm["id"], alarm["order_id"]) == (platform.dead_letters[0].id, order_id)
    assert alarm["error"].startswith("payment.charge_customer: ")


@pytest.mark.parametrize(
    ("customer", "at"), [("alice", "pizza-palace"), ("bob", "night-owl"), ("olga", "pizza-palace")]
)
def test_an_order_that_ends_in_any_way_is_no_longer_watched(platform: Stage, customer: str, at: str):
    ordered(platform, customer, at)
    platform.advance(days=1)

    assert platform.stories == platform.announced(StoryOverdue) == []
    assert analytics.app.stories.counts("delivery")["ended_in_time"] == 1


def test_a_text_that_cannot_be_sent_alarms_an_operator(platform: Stage):
    notification.gateway_outage().touch()
    order_id = ordered(platform)
    platform.advance(minutes=1)

    (alarm,) = notification.ledger.rows("SELECT * FROM alarms")
    assert alarm["order_id"] == order_id
    assert alarm["error"] == "notification.text_arrival: SmsGatewayDown: no route to sms.example.com"

    notification.gateway_outage().unlink()
    notification.app.dead_letters.replay(alarm["id"])
    platform.run()
    assert len(texts(order_id)) == 1


def test_ten_orders_of_all_kinds_leave_nothing_behind(platform: Stage):
    kinds = [("alice", "pizza-palace"), ("bob", "night-owl"), ("carol", "pizza-palace"), ("olga", "night-owl")]
    for number in range(10):
        order.place_order(*kinds[number % len(kinds)], ["margherita"], 1000)

    platform.advance(days=8)

    assert platform.joins == platform.stories == platform.dead_letters == platform.pending == []
    assert len(platform.announced(OrderPlaced)) == 10


def test_an_outage_of_the_payment_provider_of_ten_minutes_costs_no_order(
    platform: Stage, monkeypatch: pytest.MonkeyPatch
):
    def away(*_: object) -> None:
        raise payment.GatewayTimeout("no answer after 2 s")

    with monkeypatch.context() as patched:
        patched.setattr(payment, "_charge", away)
        orders = [ordered(platform) for _ in range(20)]
        platform.advance(minutes=10)
        assert platform.announced(PaymentCharged) == []
        assert platform.dead_letters == []
    platform.advance(minutes=1)

    for order_id in orders:
        assert platform.announced(PaymentCharged, subject=order_id).one().amount_cents == 2599
        assert len(platform.announced(DriverAssigned, subject=order_id)) == 1
    assert platform.dead_letters == platform.joins == []
