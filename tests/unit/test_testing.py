"""Events for tests of handlers: with metadata, and without having been announced."""

import re
from datetime import UTC, datetime

import pytest

from choreo import Service
from choreo.errors import NotAnnouncedError
from choreo.testing import announced, context
from tests.unit.events import NOON, OrderPlaced, PaymentCharged


def test_an_event_gets_the_metadata_of_the_first_of_a_story():
    before = datetime.now(UTC)

    placed = announced(OrderPlaced(customer_id="alice"), "ORD-1")

    assert (placed.meta.type, placed.meta.subject, placed.meta.source) == ("order.placed", "ORD-1", "test")
    assert placed.meta.correlation_id == placed.meta.id != ""
    assert placed.meta.causation_id is None
    assert before <= placed.meta.time <= datetime.now(UTC)
    assert placed.meta.data == {"customer_id": "alice", "total_cents": 0}


def test_all_metadata_can_be_given():
    placed = announced(
        OrderPlaced(customer_id="alice"),
        subject="ORD-1",
        id="e-1",
        correlation_id="story-1",
        causation_id="e-0",
        source="order",
        time=NOON,
    )

    meta = placed.meta
    assert (meta.id, meta.correlation_id, meta.causation_id) == ("e-1", "story-1", "e-0")
    assert (meta.source, meta.time) == ("order", NOON)


def test_the_event_itself_stays_as_it_is_and_says_the_same():
    event = OrderPlaced(customer_id="alice")

    assert announced(event) == event
    with pytest.raises(NotAnnouncedError):
        event.meta  # noqa: B018


def test_an_event_about_a_subject_of_its_own_keeps_it():
    assert announced(OrderPlaced(customer_id="alice").about("ORD-2"), "ORD-1").meta.subject == "ORD-2"


def test_each_has_an_id_of_its_own():
    assert announced(PaymentCharged()).meta.id != announced(PaymentCharged()).meta.id


def test_a_handler_that_asks_for_metadata_is_tested_as_the_error_says():
    app = Service("payment", config=None, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        charged.append(order.meta.subject)

    charged: list[str] = []
    with pytest.raises(NotAnnouncedError) as caught:
        charge(OrderPlaced(customer_id="alice"))

    advice = re.search(r"choreo\.testing\.(announced\(.*\))\.$", str(caught.value))
    assert advice is not None
    code = advice[1].replace("OrderPlaced(...)", 'OrderPlaced(customer_id="alice")')
    charge(eval(code, {"announced": announced, "OrderPlaced": OrderPlaced}))

    assert charged == ["ORD-1"]


# -- a context ------------------------------------------------------------------------------------------------------


def test_a_context_is_that_of_a_first_attempt():
    made = context(handler="payment.charge")

    assert (made.subject, made.attempt, made.attempts) == ("ORD-1", 1, 6)
    assert (made.service, made.handler) == ("payment", "payment.charge")
    assert made.idempotency_key == f"payment.charge/{made.envelope.id}"
    assert made.correlation_id == made.envelope.id
    assert context().idempotency_key != made.idempotency_key


def test_a_context_tells_what_it_is_told():
    made = context("ORD-2", attempt=2, attempts=3, idempotency_key="k-1")

    assert (made.subject, made.envelope.subject) == ("ORD-2", "ORD-2")
    assert (made.attempt, made.attempts, made.idempotency_key) == (2, 3, "k-1")


@pytest.mark.parametrize("event", [announced(OrderPlaced(customer_id="alice"), subject="ORD-3")])
def test_two_contexts_of_one_event_and_handler_are_the_same_work(event):
    first, again, bare = (context(event=one, handler="payment.charge") for one in (event, event, event.meta))

    assert first.idempotency_key == again.idempotency_key == bare.idempotency_key == f"payment.charge/{event.meta.id}"
    assert first.envelope == event.meta
    assert first.subject == "ORD-3"
    assert first.events == (event.meta,)


def test_an_event_that_was_not_announced_gets_metadata_in_a_context():
    made = context("ORD-4", event=OrderPlaced(customer_id="alice"))

    assert (made.envelope.type, made.envelope.subject, made.subject) == ("order.placed", "ORD-4", "ORD-4")


def test_a_handler_announces_in_a_context_as_in_a_delivery():
    made = context("ORD-5")

    with made.active():
        app = Service("service", config=None, set_as_current=False)
        app.publish(PaymentCharged())

    assert [(event.type, event.subject) for event in made.leaving] == [("payment.charged", "ORD-5")]
