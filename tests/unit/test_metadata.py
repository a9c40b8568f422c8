"""Metadata that a program gives to an event, and that every event inherits that it causes."""

import threading
from contextvars import copy_context
from datetime import timedelta
from typing import Any

import pytest

from choreo import Context, DeadLetter, PermanentFailure, Retry, Service
from choreo.errors import InvalidEventError
from choreo.events.metadata import LONGEST_VALUE, MOST_NAMES, checked_meta, inherited, joined
from choreo.testing import announced, context, recorder, stage
from tests.unit.events import DriverAssigned, OrderConfirmed, OrderPlaced, OrderRejected, PaymentCharged, PaymentFailed
from tests.unit.stage import service

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ORDER = OrderPlaced(customer_id="alice")


@pytest.fixture
def payment() -> Service:
    app = service("payment", retry=Retry(times=1, first=1.0))

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged()

    return app


@pytest.fixture
def driver() -> Service:
    app = service("driver")

    def late(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> DriverAssigned:
        return DriverAssigned(driver_id="none")

    @app.join(OrderConfirmed, PaymentCharged, within=timedelta(minutes=30), on_timeout=late)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    return app


# -- given ------------------------------------------------------------------------------------------------------


def test_it_travels_as_extension_attributes_of_cloud_events(payment: Service) -> None:
    with recorder(payment) as told:
        sent = payment.publish(ORDER, "ORD-1", meta={"tenant": "acme", "shard": 7, "trial": True})

    assert sent.extensions == {"tenant": "acme", "shard": 7, "trial": True}
    assert told.events == [sent]
    assert sent.to_wire().items() >= {"tenant": "acme", "shard": 7, "trial": True}.items()


def test_it_can_be_given_to_many_events_and_to_delayed_ones(payment: Service) -> None:
    with recorder(payment) as told:
        payment.publish_many([ORDER, ORDER], meta={"tenant": "acme"})
        later = payment.publish(ORDER, delay=60, meta={"tenant": "acme"})

    assert later.envelope.extensions == {"tenant": "acme"}
    assert [event.extensions for event in told.events] == [{"tenant": "acme"}] * 3


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ("tenant=acme", "is not a dict. Write meta="),
        ({"tenant_id": "acme"}, "lower-case letters and digits, as CloudEvents has it. Write it like tenantid"),
        ({"Tenant": "acme"}, "lower-case letters"),
        ({"": "acme"}, "lower-case letters"),
        ({7: "acme"}, "lower-case letters"),
        ({"t" * 21: "acme"}, "longer than 20 characters"),
        ({"subject": "ORD-1"}, "subject is an attribute of the event itself"),
        ({"correlationid": "x"}, "an attribute of the event itself"),
        ({"dataschema": "x"}, "an attribute of the event itself"),
        ({"choreoreplay": "x"}, "an attribute of the event itself"),
        ({"tenant": ["acme"]}, "a text, a whole number or a bool"),
        ({"tenant": 1.5}, "a text, a whole number or a bool"),
        ({"tenant": 2**31}, "32 bits at most. Give it as a text"),
        ({"tenant": "x" * (LONGEST_VALUE + 1)}, "513 characters, and 512 may travel"),
        ({"traceparent": "00-abc"}, "no W3C traceparent, like 00-4bf92"),
        ({"traceparent": TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)}, "no W3C traceparent"),
        ({f"name{number}": "x" for number in range(MOST_NAMES + 1)}, "17 names, more than 16"),
    ],
)
def test_what_cannot_travel_is_refused_with_the_way_out(payment: Service, meta: Any, fault: str) -> None:
    with recorder(payment) as told, pytest.raises(InvalidEventError) as refused:
        payment.publish(ORDER, meta=meta)

    assert fault in str(refused.value)
    assert len(str(refused.value)) < 400
    assert told.events == []


def test_the_largest_values_travel() -> None:
    meta = {"t" * 20: "x" * LONGEST_VALUE, "n1": 2**31 - 1, "n2": -(2**31), "traceparent": TRACE}

    assert joined({}, checked_meta(meta)) == meta


# -- inherited --------------------------------------------------------------------------------------------------


def test_every_event_of_the_story_has_it(payment: Service, driver: Service) -> None:
    platform = stage(payment, driver)
    platform.publish(OrderConfirmed(), subject="ORD-1", meta={"tenant": "acme"})
    platform.advance(seconds=1)
    platform.publish(ORDER, subject="ORD-1", meta={"tenant": "acme", "traceparent": TRACE, "tracestate": "a=1"})

    platform.run()

    [assigned] = platform.announced(DriverAssigned)
    assert assigned.meta.extensions == {"tenant": "acme", "traceparent": TRACE, "tracestate": "a=1"}


def test_handlers_read_it(payment: Service) -> None:
    seen: list[object] = []

    @payment.on(OrderPlaced)
    def note(order: OrderPlaced, context: Context) -> None:
        seen.extend([order.meta.extensions["tenant"], context.meta])

    platform = stage(payment)
    platform.publish(ORDER, meta={"tenant": "acme"})
    platform.run()

    assert seen == ["acme", {"tenant": "acme"}]


def test_a_handler_can_give_more_or_another_value_or_take_a_name_away(payment: Service) -> None:
    @payment.on(OrderPlaced)
    def tell(order: OrderPlaced):
        payment.publish(PaymentFailed(), meta={"shard": 7, "tenant": "other"})
        payment.publish(PaymentFailed(), meta={"tenant": None})
        payment.publish(PaymentFailed(), meta={"traceparent": OTHER_TRACE})

    platform = stage(payment)
    platform.publish(ORDER, meta={"tenant": "acme", "traceparent": TRACE, "tracestate": "a=1"})
    platform.run()

    trace = {"traceparent": TRACE, "tracestate": "a=1"}
    assert [event.meta.extensions for event in platform.announced(PaymentFailed)] == [
        {"tenant": "other", "shard": 7, **trace},
        trace,
        {"tenant": "acme", "traceparent": OTHER_TRACE},
    ]


@pytest.mark.parametrize("more", [None, {"shard": 7}])
def test_an_event_that_a_thread_announces_after_its_handler_has_it(payment: Service, more: Any) -> None:
    threads: list[threading.Thread] = []
    ended = threading.Event()

    def later() -> None:
        ended.wait(60)
        payment.publish(PaymentFailed(), meta=more)

    @payment.on(OrderPlaced)
    def begin(order: OrderPlaced) -> None:
        threads.append(threading.Thread(target=copy_context().run, args=[later]))

    with stage(payment) as platform:
        platform.publish(ORDER, meta={"tenant": "acme"})
        platform.run()
        ended.set()
        for thread in threads:
            thread.start()
            thread.join(60)

    [failed] = platform.announced(PaymentFailed)
    assert failed.meta.extensions == {"tenant": "acme"} | (more or {})


def test_retries_delays_and_replays_keep_it(payment: Service) -> None:
    fails = [ValueError("1"), ValueError("2"), None]

    @payment.on(OrderPlaced)
    def confirm(order: OrderPlaced):
        if error := fails.pop(0):
            raise error
        payment.publish(OrderConfirmed(), delay=60)

    platform = stage(payment)
    platform.publish(ORDER, delay=60, meta={"tenant": "acme"})
    platform.advance(minutes=5)
    [letter] = platform.dead_letters
    with platform:
        payment.dead_letters.replay(letter.id)
    platform.advance(minutes=5)

    [confirmed] = platform.announced(OrderConfirmed)
    assert letter.envelopes[0].extensions == confirmed.meta.extensions == {"tenant": "acme"}


def test_the_events_of_a_deadline_have_it(payment: Service, driver: Service) -> None:
    platform = stage(driver)
    platform.publish(OrderConfirmed(), subject="ORD-1", meta={"tenant": "acme"})

    platform.advance(minutes=31)

    [assigned] = platform.announced(DriverAssigned)
    assert (assigned.driver_id, assigned.meta.extensions) == ("none", {"tenant": "acme"})


@pytest.mark.parametrize("turned", [False, True])
def test_a_join_hands_on_what_any_part_has_and_of_two_values_that_of_its_first_part(
    driver: Service, turned: bool
) -> None:
    events = [
        (OrderConfirmed(), {"tenant": "acme", "region": "eu", "traceparent": TRACE, "tracestate": "a=1"}),
        (PaymentCharged(), {"tenant": "other", "bank": "b", "traceparent": OTHER_TRACE}),
    ]
    platform = stage(driver)
    for event, meta in reversed(events) if turned else events:
        platform.publish(event, subject="ORD-1", meta=meta)
        platform.advance(seconds=1)

    [assigned] = platform.announced(DriverAssigned)
    trace = {"traceparent": TRACE, "tracestate": "a=1"} if turned else {"traceparent": OTHER_TRACE}
    # The trace is that of the cause: the part that was announced last.
    assert assigned.meta.extensions == {"tenant": "acme", "region": "eu", "bank": "b", **trace}
    assert assigned.meta.causation_id == platform.events[1].id


def test_a_join_hands_on_what_only_an_earlier_part_has(driver: Service) -> None:
    platform = stage(driver)
    platform.publish(OrderConfirmed(), subject="ORD-1", meta={"tenant": "acme"})
    platform.advance(seconds=1)
    platform.publish(PaymentCharged(), subject="ORD-1")
    platform.run()

    [assigned] = platform.announced(DriverAssigned)
    assert assigned.meta.extensions == {"tenant": "acme"}


def test_the_dead_letter_function_hands_on_what_any_part_of_a_join_has(driver: Service) -> None:
    @driver.join(OrderConfirmed, PaymentCharged)
    def refuse(confirmed: OrderConfirmed, charged: PaymentCharged) -> None:
        raise PermanentFailure("no")

    @driver.dead_letter
    def tell(letter: DeadLetter) -> OrderRejected:
        return OrderRejected()

    platform = stage(driver)
    platform.publish(OrderConfirmed(), subject="ORD-1", meta={"tenant": "acme"})
    platform.publish(PaymentCharged(), subject="ORD-1", meta={"bank": "b"})
    platform.run()

    [rejected] = platform.announced(OrderRejected)
    assert rejected.meta.extensions == {"tenant": "acme", "bank": "b"}


def test_the_events_of_the_dead_letter_function_have_it(payment: Service) -> None:
    @payment.on(OrderPlaced)
    def refuse(order: OrderPlaced) -> None:
        raise PermanentFailure("no")

    @payment.dead_letter
    def tell(letter: DeadLetter) -> OrderRejected:
        return OrderRejected()

    platform = stage(payment)
    platform.publish(ORDER, meta={"tenant": "acme"})
    platform.run()

    [rejected] = platform.announced(OrderRejected)
    assert rejected.meta.extensions == {"tenant": "acme"}


def test_attributes_of_one_event_or_of_choreo_and_what_could_not_be_given_are_not_inherited() -> None:
    attributes = {
        "tenant": "acme",
        "partitionkey": "7",
        "choreohops": 3,
        "Tenant": "acme",
        "deep": {"a": 1},
        "long": "x" * 513,
        "traceparent": "no trace",
    }

    assert inherited([attributes], attributes) == {"tenant": "acme"}


# -- in tests ---------------------------------------------------------------------------------------------------


def test_a_test_can_give_it_to_an_event_and_to_a_context() -> None:
    order = announced(ORDER, "ORD-1", meta={"tenant": "acme"})

    assert order.meta.extensions == {"tenant": "acme"}
    assert context(event=order).meta == {"tenant": "acme"}
