"""What a handler knows about its delivery, and what `publish` does inside it."""

import threading

import pytest

from choreo import Context
from choreo.declare.context import current
from tests.unit.events import OrderPlaced, PaymentCharged, envelope


@pytest.fixture
def context() -> Context:
    return Context(
        service="payment",
        handler="payment.charge",
        envelope=envelope(OrderPlaced(customer_id="alice"), subject="ORD-1", id="e-1"),
        attempt=2,
        attempts=6,
        idempotency_key="payment.charge/e-1",
    )


def again(context: Context) -> Context:
    """The context of another attempt at the same work."""
    return Context(context.service, context.handler, context.envelope, 3, context.attempts, context.idempotency_key)


def test_it_tells_subject_and_story(context):
    assert context.subject == "ORD-1"
    assert context.correlation_id == "story-1"


def test_what_is_announced_follows_from_the_event_that_caused_it(context):
    announced = context.announce(PaymentCharged(amount_cents=5))

    assert announced.subject == "ORD-1"
    assert announced.correlation_id == "story-1"
    assert announced.causation_id == "e-1"
    assert announced.source == "payment"
    assert announced.data == {"amount_cents": 5}
    assert context.announced == [announced]


def test_what_is_announced_can_be_about_something_else(context):
    assert context.announce(PaymentCharged(), "PAY-1").subject == "PAY-1"
    assert context.announce(PaymentCharged().about("PAY-2"), "PAY-1").subject == "PAY-2"


def test_the_same_facts_get_the_same_ids_when_the_handler_runs_again(context):
    first = [context.announce(PaymentCharged()).id, context.announce(PaymentCharged()).id]

    other = again(context)
    second = [other.announce(PaymentCharged()).id, other.announce(PaymentCharged()).id]

    assert first == second
    assert len(set(first)) == 2


def test_other_work_announces_other_ids(context):
    other = Context("payment", "payment.refund", context.envelope, 1, 6, "payment.refund/e-1")

    assert context.announce(PaymentCharged()).id != other.announce(PaymentCharged()).id


def test_it_is_current_while_the_handler_runs_and_only_in_its_thread(context):
    elsewhere = []

    with context.active():
        thread = threading.Thread(target=lambda: elsewhere.append(current()))
        thread.start()
        thread.join()
        assert current() is context

    assert current() is None
    assert elsewhere == [None]


def test_it_is_no_longer_current_after_a_failure(context):
    with pytest.raises(RuntimeError), context.active():
        raise RuntimeError

    assert current() is None
