"""What a handler listens to, checked against what its function can take."""

from datetime import timedelta

import pytest
from pydantic import BaseModel

from choreo import Context, Envelope, Event, Retry
from choreo.declare.join import Join, check_join
from choreo.declare.reaction import inspect_function
from choreo.declare.subscription import check_single, patterns_of
from choreo.errors import DeclarationError
from tests.unit.events import DriverAssigned, OrderConfirmed, OrderPlaced, OrderRejected, PaymentCharged, envelope


class Total(BaseModel):
    total_cents: int


def nothing(order: OrderPlaced) -> None:
    pass


def both(confirmed: OrderConfirmed, charged: PaymentCharged) -> None:
    pass


JOIN = Join(
    service="driver",
    name="driver.assign",
    patterns=("order.confirmed", "payment.charged", "order.rejected"),
    reaction=inspect_function(both),
    retry=Retry(),
    parts=("order.confirmed", "payment.charged"),
    within=timedelta(minutes=5),
    unless=("order.rejected",),
)


# -- topics -----------------------------------------------------------------------------------------------------


def test_topics_are_event_classes_and_patterns():
    assert patterns_of([OrderPlaced, "payment.*"], "charge") == ("order.placed", "payment.*")


@pytest.mark.parametrize("topic", [5, None, object(), Event, int, Total])
def test_any_other_topic_is_refused(topic):
    with pytest.raises(DeclarationError, match=r"charge listens to .* neither an event class nor a pattern"):
        patterns_of([topic], "charge")


def test_a_topic_that_is_named_twice_is_refused():
    with pytest.raises(DeclarationError, match=r"charge names the same event twice: order\.placed, order\.placed"):
        patterns_of([OrderPlaced, "order.placed"], "charge")


# -- one event at a time ----------------------------------------------------------------------------------------


def fits(function, *topics) -> None:
    check_single(inspect_function(function), topics)


def misfit(function, *topics) -> str:
    with pytest.raises(DeclarationError) as caught:
        fits(function, *topics)
    return str(caught.value)


def test_a_handler_reads_what_it_listens_to():
    def view(order: Total) -> None: ...
    def whole(order: Envelope, context: Context) -> None: ...
    def either(event: OrderPlaced | PaymentCharged) -> None: ...

    fits(nothing, OrderPlaced)
    fits(view, OrderPlaced)
    fits(view, "order.*")
    fits(whole, "order.*", PaymentCharged)
    fits(either, PaymentCharged, OrderPlaced)


def test_a_handler_may_name_the_type_that_its_class_travels_as():
    fits(nothing, "order.placed")


def test_a_handler_that_reads_another_event_is_refused():
    said = misfit(nothing, PaymentCharged)

    assert "nothing listens to PaymentCharged, but its parameter 'order' reads OrderPlaced" in said
    assert "annotate it with Envelope" in said


def test_a_handler_that_reads_only_some_of_its_events_is_refused():
    assert "listens to OrderPlaced, PaymentCharged, but" in misfit(nothing, OrderPlaced, PaymentCharged)


def test_a_pattern_does_not_fit_one_class():
    assert "listens to a pattern, but its parameter 'order' reads OrderPlaced" in misfit(nothing, "order.*")


def test_a_handler_of_no_event_or_of_two_is_refused():
    def none() -> None: ...
    def only_context(context: Context) -> None: ...

    assert "none takes no event. A handler takes one" in misfit(none, OrderPlaced)
    assert "only_context takes no event" in misfit(only_context, OrderPlaced)
    assert "both takes 2 events" in misfit(both, OrderConfirmed, PaymentCharged)
    assert "to wait for several events, declare a join" in misfit(both, OrderConfirmed, PaymentCharged)


# -- a join -----------------------------------------------------------------------------------------------------


PARTS = [OrderConfirmed, PaymentCharged]


def test_a_join_takes_its_events_in_order_as_events_views_or_envelopes():
    def views(confirmed: Envelope, charged: Total, context: Context) -> None: ...

    check_join(inspect_function(both), PARTS)
    check_join(inspect_function(views), PARTS)


def swapped(charged: PaymentCharged, confirmed: OrderConfirmed) -> None:
    pass


def too_few(confirmed: OrderConfirmed) -> None:
    pass


def too_many(confirmed: OrderConfirmed, charged: PaymentCharged, assigned: DriverAssigned) -> None:
    pass


def maybe(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> None:
    pass


@pytest.mark.parametrize("function", [swapped, too_few, too_many])
def test_a_join_that_takes_anything_else_is_refused_with_what_it_must_take(function):
    with pytest.raises(DeclarationError, match=r"must take the joined events .*\(OrderConfirmed, PaymentCharged\)"):
        check_join(inspect_function(function), PARTS)


def test_a_join_may_be_ready_for_parts_that_are_missing_when_somebody_fires_it_by_hand():
    check_join(inspect_function(maybe), PARTS)


def test_what_happens_on_timeout_must_be_ready_for_parts_that_are_missing():
    check_join(inspect_function(maybe), PARTS, optional=True)

    with pytest.raises(DeclarationError, match=r"\(OrderConfirmed \| None, PaymentCharged \| None\)"):
        check_join(inspect_function(both), PARTS, optional=True)


def test_a_join_knows_its_cancellations_and_the_order_of_its_parts():
    confirmed, charged = envelope(OrderConfirmed()), envelope(PaymentCharged())

    assert JOIN.cancels(envelope(OrderRejected()))
    assert not JOIN.cancels(confirmed)
    assert JOIN.in_order({"payment.charged": [charged], "order.confirmed": [confirmed]}) == [confirmed, charged]
    assert JOIN.in_order({"payment.charged": [charged]}) == [None, charged]
