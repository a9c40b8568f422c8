"""Events for tests of handlers: with metadata, and without having been announced."""

import re
from datetime import UTC, datetime

import pytest

from choreo import Service
from choreo.errors import NotAnnouncedError
from choreo.testing import announced
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
