"""The recorder: the events that a web endpoint announces, without a broker."""

from datetime import UTC, datetime, timedelta

import pytest

from choreo import PublishError, Service
from choreo.errors import EventTooLargeError, StoreError
from choreo.testing import recorder
from tests.unit.events import OrderPlaced, PaymentCharged

ORDER = OrderPlaced(customer_id="alice")


@pytest.fixture
def app() -> Service:
    return Service("web", config=None, set_as_current=False)


def test_what_an_app_announces_is_recorded_in_its_order(app):
    with recorder(app) as told:
        app.publish(ORDER, subject="ORD-1")
        app.publish(PaymentCharged(amount_cents=5), subject="ORD-1")
        app.publish_many(ORDER.about(f"ORD-{number}") for number in (2, 3))

    [placed] = told.announced(OrderPlaced, subject="ORD-1")
    assert placed == ORDER
    assert (placed.meta.source, placed.meta.subject) == ("web", "ORD-1")
    assert told.announced(PaymentCharged).one().amount_cents == 5
    assert [event.subject for event in told.events] == ["ORD-1", "ORD-1", "ORD-2", "ORD-3"]


def test_what_is_handed_to_the_publisher_itself_is_recorded_each_time(app):
    with recorder(app) as told:
        envelope = app.publish(ORDER, subject="ORD-1")
        app.publisher.announce([envelope])

    assert told.events == [envelope, envelope]


def test_a_delayed_event_is_recorded_until_it_is_called_off(app, caplog):
    at = datetime(2030, 1, 1, tzinfo=UTC)
    with recorder(app) as told:
        kept = app.publish(ORDER, subject="ORD-1", at=at)
        dropped = app.publish(ORDER, subject="ORD-2", delay=timedelta(days=1))
        assert [event.meta.subject for event in told.announced(OrderPlaced)] == ["ORD-1", "ORD-2"]

        assert dropped.cancel()
        assert not app.call_off("delayed/nonsense")

    assert told.events == [kept.envelope]
    assert told.announced(OrderPlaced).one().meta.time == at
    assert caplog.text == ""


def test_an_app_can_be_told_that_the_broker_is_away(app):
    with recorder(app, fails=PublishError("no connection")) as told:
        with pytest.raises(PublishError, match="no connection") as caught:
            app.publish(ORDER, subject="ORD-1")
        (envelope,) = caught.value.unconfirmed
        with pytest.raises(PublishError):
            app.publish_many([ORDER, ORDER])
        with pytest.raises(PublishError):
            app.publish(ORDER, delay=60)
        assert told.events == []

        told.fails = None
        app.publisher.announce([envelope])

    assert told.announced(OrderPlaced, subject="ORD-1").one() == ORDER


def test_an_app_can_be_told_that_the_store_is_away(app):
    with recorder(app) as told:
        delayed = app.publish(ORDER, delay=60)
        told.fails = StoreError("no connection")
        with pytest.raises(StoreError):
            app.publish(ORDER, delay=60)
        with pytest.raises(StoreError):
            delayed.cancel()

    assert len(told.events) == 1


def test_an_event_that_no_broker_would_take_is_not_recorded(app):
    with recorder(app) as told, pytest.raises(EventTooLargeError):
        app.publish(OrderPlaced(customer_id="x" * 300_000))

    assert told.events == []


def test_several_apps_have_one_record_and_are_as_before_afterwards(app):
    other = Service("order", config=None, set_as_current=False)
    before = app.runtime, other.runtime

    with recorder(app, other) as told:
        app.publish(ORDER, subject="ORD-1")
        other.publish(ORDER, subject="ORD-2")
    assert (app.runtime, other.runtime) == before

    with pytest.raises(ZeroDivisionError), recorder(app, other):
        1 / 0  # noqa: B018

    assert [event.source for event in told.events] == ["web", "order"]
    assert (app.runtime, other.runtime) == before


def test_a_failed_assertion_tells_what_was_announced(app):
    with recorder(app) as told:
        assert repr(told.announced(OrderPlaced)) == "[] (no order.placed; announced: nothing)"
        app.publish(ORDER, subject="ORD-1")

    assert repr(told.announced(PaymentCharged)) == "[] (no payment.charged; announced: order.placed ORD-1)"
    with pytest.raises(AssertionError, match=r"^no payment.charged instead of 1\.\n\nAnnounced were:\n  order.placed"):
        told.announced(PaymentCharged).one()

    with recorder(app) as told:
        app.publish_many([ORDER, ORDER])
    with pytest.raises(AssertionError, match=r"^2 order\.placed instead of 1\."):
        told.announced(OrderPlaced).one()
