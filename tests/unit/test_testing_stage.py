"""The stage: a platform in one process, whose time a test can turn."""

import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from choreo import Announcement, Context, DeadLetter, Envelope, PermanentFailure, Reason, Retry, RetryLater, Service
from choreo.errors import DeclarationError, EventTooLargeError, PublishError
from choreo.testing import EndlessLoopError, PendingDelivery, Stage, stage
from tests.unit.events import (
    DriverAssigned,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PaymentCharged,
    PaymentFailed,
)

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
ORDER = OrderPlaced(customer_id="alice", total_cents=500)


def make_service(name: str, **options) -> Service:
    return Service(name, config=None, set_as_current=False, **options)


@pytest.fixture
def payment() -> Service:
    app = make_service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged(amount_cents=order.total_cents)

    return app


@pytest.fixture
def restaurant() -> Service:
    app = make_service("restaurant")

    @app.on(OrderPlaced)
    def answer(order: OrderPlaced) -> OrderConfirmed | OrderRejected:
        return OrderRejected() if order.customer_id == "olga" else OrderConfirmed()

    return app


@pytest.fixture
def driver() -> Service:
    app = make_service("driver")

    def late(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> DriverAssigned:
        return DriverAssigned(driver_id="none")

    @app.join(OrderConfirmed, PaymentCharged, unless=OrderRejected, within=timedelta(minutes=30), on_timeout=late)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned(driver_id="D-7")

    return app


def failing(*errors: Exception | None, retry: Retry | None = None) -> tuple[Service, list[datetime]]:
    """A payment service whose handler raises these one after another, and the times at which it was called."""
    app, left, called = make_service("payment"), list(errors), list[datetime]()

    @app.on(OrderPlaced, retry=retry)
    def charge(order: Envelope, context: Context) -> PaymentCharged:
        called.append(context.now())
        if error := left.pop(0):
            raise error
        return PaymentCharged()

    return app, called


# -- a flow -----------------------------------------------------------------------------------------------------


def test_an_event_goes_through_the_services_to_its_end(payment, restaurant, driver):
    platform = stage(payment, restaurant, driver)

    placed = platform.publish(ORDER, subject="ORD-1")
    count = platform.run()

    [assigned] = platform.announced(DriverAssigned, subject="ORD-1")
    assert assigned.driver_id == "D-7"
    assert (assigned.meta.subject, assigned.meta.correlation_id) == ("ORD-1", placed.id)
    assert (assigned.meta.source, placed.source) == ("driver", "test")
    assert count == len(platform.deliveries) == 4
    assert platform.joins == platform.dead_letters == platform.pending == []


def test_nothing_is_delivered_before_it_is_told_to_run(payment):
    platform = stage(payment)

    platform.publish(ORDER)

    assert platform.deliveries == []
    assert [str(pending) for pending in platform.pending] == ["payment.charge(order.placed)"]
    assert platform.run() == 1
    assert platform.run() == 0


def test_deliveries_are_made_in_the_order_in_which_their_messages_came(payment, restaurant, driver):
    platform = stage(payment, restaurant, driver)
    platform.publish(ORDER, subject="ORD-1")
    platform.publish(ORDER, subject="ORD-2")

    platform.run()

    assert [event.meta.subject for event in platform.announced(DriverAssigned, subject="ORD-2")] == ["ORD-2"]

    assert [(made.handler, made.event.subject) for made in platform.deliveries] == [
        ("payment.charge", "ORD-1"),
        ("restaurant.answer", "ORD-1"),
        ("payment.charge", "ORD-2"),
        ("restaurant.answer", "ORD-2"),
        ("driver.assign", "ORD-1"),
        ("driver.assign", "ORD-1"),
        ("driver.assign", "ORD-2"),
        ("driver.assign", "ORD-2"),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_another_order_can_be_chosen(payment, restaurant, driver, seed):
    shuffle, offered = random.Random(seed), []

    def choose(pending: Sequence[PendingDelivery]) -> PendingDelivery:
        offered.append(len(pending))
        return shuffle.choice(pending)

    platform = stage(payment, restaurant, driver, choose=choose)
    for number in range(5):
        platform.publish(ORDER, subject=f"ORD-{number}")
    platform.run()

    assert offered[0] == 10
    assert len(platform.announced(DriverAssigned)) == 5
    first = [made.event.subject for made in platform.deliveries[:5]]
    assert first != ["ORD-0", "ORD-0", "ORD-1", "ORD-1", "ORD-2"]


def test_a_choice_that_is_not_pending_is_refused(payment):
    stranger = PendingDelivery(1, "payment.charge", None, None)
    platform = stage(payment, choose=lambda _: stranger)
    platform.publish(ORDER)

    with pytest.raises(ValueError, match="not one of the pending deliveries"):
        platform.run()


def test_patterns_get_the_events_that_they_match_and_a_handler_gets_each_once():
    app = make_service("analytics")

    for number, topics in enumerate([("order.*",), ("#",), ("order.placed", "order.#"), ("*",), ("menu.#",)]):

        @app.on(*topics, name=f"count_{number}")
        def count(event: Envelope) -> None: ...

    platform = stage(app)
    platform.publish(ORDER)
    platform.publish(PaymentCharged())
    platform.run()

    assert sorted((made.handler, made.event.type) for made in platform.deliveries) == [
        ("analytics.count_0", "order.placed"),
        ("analytics.count_1", "order.placed"),
        ("analytics.count_1", "payment.charged"),
        ("analytics.count_2", "order.placed"),
    ]


def test_an_event_that_no_handler_hears_is_announced_all_the_same(payment, caplog):
    caplog.set_level(logging.INFO)
    platform = stage(payment)

    platform.publish(PaymentFailed(), subject="ORD-1")

    assert platform.run() == 0
    assert len(platform.announced(PaymentFailed)) == 1
    assert "nobody listens to payment.failed yet" in caplog.text


def test_a_handler_that_is_declared_later_is_on_the_stage_too(payment):
    platform = stage(payment)
    platform.publish(ORDER)
    platform.run()

    @payment.on(OrderPlaced, PaymentFailed)
    def note(event: Envelope) -> None: ...

    platform.publish(ORDER)
    platform.run()

    assert [made.handler for made in platform.deliveries] == ["payment.charge", "payment.charge", "payment.note"]


def test_events_of_services_that_publish_inside_a_handler_are_delivered(payment, driver):
    web, told = make_service("web"), []

    @web.on(PaymentCharged)
    def confirm(charged: PaymentCharged) -> OrderConfirmed | None:
        web.publish(OrderConfirmed())
        # Another service's event does not wait for the end of this handler.
        payment.publish(PaymentFailed(), subject="ORD-2")
        told.extend(event.type for event in platform.events)

    platform = stage(payment, driver, web)
    platform.publish(ORDER, subject="ORD-1")
    platform.run()

    assert told == ["order.placed", "payment.charged", "payment.failed"]
    assert platform.announced(PaymentFailed).one().meta.source == "payment"
    assert platform.announced(OrderConfirmed).one().meta.causation_id == platform.events[1].id
    assert platform.announced(DriverAssigned, subject="ORD-1").one().driver_id == "D-7"


def test_handlers_do_not_share_the_data_of_an_event():
    app, seen = make_service("payment"), []

    for name in ("one", "two"):

        @app.on(OrderPlaced, name=name)
        def spoil(event: Envelope) -> None:
            seen.append(event.data.pop("customer_id"))

    platform = stage(app)
    platform.publish(ORDER)
    platform.run()

    assert seen == ["alice", "alice"]
    assert platform.announced(OrderPlaced).one() == ORDER


def test_middleware_and_warnings_are_as_in_production():
    app, seen = make_service("payment"), []

    @app.around
    def logged(context: Context, proceed) -> None:
        seen.append([event.type for event in proceed()])

    @app.on(OrderPlaced, retry=Retry(times=0))
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentFailed()

    platform = stage(app)
    platform.publish(ORDER)
    platform.run()

    assert seen == [["payment.failed"]]
    # pyproject.toml makes an error of the warning.
    assert "UndeclaredEventWarning" in platform.dead_letters[0].error
    assert platform.announced(PaymentFailed) == []


# -- duplicates -------------------------------------------------------------------------------------------------


def test_an_event_that_is_announced_twice_is_handled_once(payment):
    platform = stage(payment)

    placed = platform.publish(ORDER)
    assert platform.publish(placed) == placed
    platform.run()

    assert [made.outcome for made in platform.deliveries] == ["announced payment.charged", "done before"]
    assert len(platform.announced(PaymentCharged)) == 1


def test_a_part_of_a_join_that_comes_twice_counts_once(driver):
    platform = stage(driver)
    confirmed = platform.publish(OrderConfirmed(), subject="ORD-1")
    platform.publish(confirmed)
    platform.run()

    with platform:
        assert driver.joins.tally("driver.assign")["duplicate"] == 1
    assert platform.announced(DriverAssigned) == []


# -- retries and dead letters -----------------------------------------------------------------------------------


def test_a_failure_is_tried_again_once_its_time_has_come(caplog):
    app, called = failing(RetryLater(5), RetryLater(60), None)
    platform = stage(app, start=NOON)
    platform.publish(ORDER, subject="ORD-1")

    assert platform.run() == 1
    assert platform.advance(seconds=4.9) == 0
    assert platform.advance(seconds=0.1) == 1
    assert platform.advance(minutes=2) == 1

    assert called == [NOON, NOON + timedelta(seconds=5), NOON + timedelta(seconds=65)]
    assert [(made.attempt, made.at) for made in platform.deliveries] == list(enumerate(called, start=1))
    assert platform.now == NOON + timedelta(seconds=125)
    assert [type(made.error) for made in platform.deliveries] == [RetryLater, RetryLater, type(None)]
    assert "attempt 1 of 6 failed, the next is in 5.0 s: RetryLater" in platform.deliveries[0].outcome
    assert "payment.charge(order.placed ORD-1): attempt 1 of 6 failed" in caplog.text
    assert len(platform.announced(PaymentCharged)) == 1


def test_things_that_are_due_happen_in_the_order_of_their_time_whatever_they_are():
    app, seen = make_service("payment"), []

    def late(charged: PaymentCharged | None, failed: PaymentFailed | None) -> None:
        seen.append(("deadline", platform.now))

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced, context: Context) -> None:
        if context.attempt == 1:
            raise RetryLater(90)
        seen.append(("retry", platform.now))

    @app.join(PaymentCharged, PaymentFailed, within=timedelta(seconds=60), on_timeout=late)
    def settle(charged: PaymentCharged, failed: PaymentFailed) -> None: ...

    @app.on(OrderConfirmed)
    def confirm(event: OrderConfirmed) -> None:
        seen.append(("delayed", platform.now))

    platform = stage(app, start=NOON)
    platform.publish(ORDER)
    platform.publish(PaymentCharged(), subject="ORD-1")
    platform.publish(OrderConfirmed(), delay=75)
    platform.publish(OrderConfirmed(), at=NOON + timedelta(seconds=30))
    platform.advance(minutes=2)

    assert seen == [
        ("delayed", NOON + timedelta(seconds=30)),
        ("deadline", NOON + timedelta(seconds=60)),
        ("delayed", NOON + timedelta(seconds=75)),
        ("retry", NOON + timedelta(seconds=90)),
    ]


def test_an_event_that_fails_for_good_is_a_dead_letter_and_its_service_is_told():
    app, _ = failing(ValueError("503"), ValueError("504"), retry=Retry(times=1, first=1))
    told: list[DeadLetter] = []
    app.dead_letter(told.append)
    platform = stage(app, start=NOON)
    platform.publish(ORDER, subject="ORD-1")

    platform.advance(minutes=1)

    [letter] = platform.dead_letters
    assert told == [letter]
    assert (letter.handler, letter.reason, letter.attempts) == ("payment.charge", Reason.EXHAUSTED, 2)
    assert NOON < letter.failed_at <= NOON + timedelta(seconds=1)
    assert [made.handler for made in platform.deliveries] == ["payment.charge"] * 2 + ["payment.dead_letters"]
    assert [str(made.error) for made in platform.deliveries] == ["503", "504", "None"]
    assert platform.deliveries[1].outcome == "dead letter: ValueError: 504"


def test_a_listener_that_fails_ends_nothing_and_is_in_the_log(caplog):
    app, _ = failing(PermanentFailure("no"))

    @app.dead_letter
    def tell(letter: DeadLetter) -> None:
        raise ValueError("no operator")

    platform = stage(app)
    platform.publish(ORDER)

    assert platform.run() == 2
    assert platform.deliveries[1].outcome == "told of the dead letter, and failed: ValueError: no operator"
    assert "no operator" in caplog.text


def test_a_dead_letter_is_replayed_on_the_stage():
    app, called = failing(PermanentFailure("no"), None)
    platform = stage(app)
    platform.publish(ORDER)
    platform.run()

    with platform:
        app.dead_letters.replay(platform.dead_letters[0].id)
    platform.run()

    assert len(called) == 2
    assert platform.dead_letters == []
    assert len(platform.announced(PaymentCharged)) == 1


def test_a_letter_that_is_discarded_before_its_notice_arrives_is_not_told():
    app, _ = failing(PermanentFailure("no"))
    told: list[DeadLetter] = []
    app.dead_letter(told.append)
    platform = stage(app, choose=lambda pending: pending[-1])
    platform.publish(ORDER)

    with platform:
        platform._deliver()
        app.dead_letters.discard(platform.dead_letters[0].id)
        platform.run()

    assert told == []
    assert platform.deliveries[-1].outcome == "replayed or discarded meanwhile"


def test_an_event_that_a_join_cannot_place_is_a_dead_letter(driver):
    platform = stage(driver)
    platform.publish(OrderConfirmed(), subject="")

    platform.run()

    assert [letter.reason for letter in platform.dead_letters] == [Reason.UNREADABLE]
    assert "has no subject" in platform.deliveries[0].outcome


# -- joins ------------------------------------------------------------------------------------------------------


def test_a_join_that_is_incomplete_ends_with_its_on_timeout(driver):
    platform = stage(driver, start=NOON)
    platform.publish(OrderConfirmed(), subject="ORD-1")
    platform.run()

    [join] = platform.joins
    assert (join.handler, join.key, join.until) == ("driver.assign", "ORD-1", NOON + timedelta(minutes=30))
    platform.advance(minutes=29)
    assert platform.announced(DriverAssigned) == []

    platform.advance(minutes=1)
    assert platform.announced(DriverAssigned, subject="ORD-1").one().driver_id == "none"
    assert platform.joins == []

    platform.publish(PaymentCharged(), subject="ORD-1")
    platform.advance(days=1)
    assert len(platform.announced(DriverAssigned)) == 1


def test_a_join_is_cancelled_by_its_unless_and_stays_so(payment, restaurant, driver):
    platform = stage(payment, restaurant, driver)

    platform.publish(OrderPlaced(customer_id="olga"), subject="ORD-1")
    platform.advance(hours=1)

    assert len(platform.announced(OrderRejected)) == 1
    assert platform.announced(DriverAssigned) == platform.joins == []


def test_a_join_can_be_cancelled_and_fired_by_hand(driver):
    platform = stage(driver)
    for subject in ("ORD-1", "ORD-2"):
        platform.publish(OrderConfirmed(), subject=subject)
    platform.run()

    with platform:
        driver.joins.cancel("ORD-1", "the customer called")
        driver.joins.fire("ORD-2", as_timeout=True)
    platform.run()

    assert [event.meta.subject for event in platform.announced(DriverAssigned)] == ["ORD-2"]


# -- delays -----------------------------------------------------------------------------------------------------


def test_a_delayed_event_can_be_called_off_until_it_leaves(payment):
    platform = stage(payment, start=NOON)
    kept = platform.publish(ORDER, subject="ORD-1", delay=timedelta(minutes=1))
    dropped = platform.publish(ORDER, subject="ORD-2", delay=60)
    by_key = platform.publish(ORDER, subject="ORD-3", at=NOON + timedelta(minutes=1))
    assert isinstance(kept, Announcement)
    assert kept.at == NOON + timedelta(minutes=1)

    assert dropped.cancel()
    with platform:
        assert payment.call_off(by_key.key)
    platform.advance(minutes=1)

    assert [event.subject for event in platform.events] == ["ORD-1", "ORD-1"]
    assert not kept.cancel()


def test_a_handler_delays_an_event_and_another_calls_it_off():
    app, keys = make_service("payment"), []

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentFailed | None:
        keys.append(app.publish(PaymentFailed(), delay=timedelta(hours=1)).key)

    @app.on(PaymentCharged)
    def settle(charged: PaymentCharged) -> None:
        assert app.call_off(keys[0])

    platform = stage(app)
    platform.publish(ORDER, subject="ORD-1")
    platform.publish(ORDER, subject="ORD-2")
    platform.advance(minutes=59)
    platform.publish(PaymentCharged(), subject="ORD-1")
    platform.advance(minutes=1)

    assert [event.meta.subject for event in platform.announced(PaymentFailed)] == ["ORD-2"]


def test_a_stage_sends_delayed_events_so_nobody_is_warned(payment, caplog):
    with stage(payment):
        payment.publish(ORDER, delay=60)

    assert "waits in the store" not in caplog.text


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        (lambda stage: stage.publish("order"), DeclarationError),
        (lambda stage: stage.publish(ORDER, delay=-1), DeclarationError),
        (lambda stage: stage.publish(ORDER, delay=1, at=NOON), DeclarationError),
        (lambda stage: stage.publish(OrderPlaced(customer_id="x" * 300_000)), EventTooLargeError),
        (lambda stage: stage.publish(OrderPlaced(customer_id="x" * 300_000), delay=1), EventTooLargeError),
        (lambda stage: stage.advance(minutes=-1), ValueError),
        (lambda stage: stage.advance(moments=1), TypeError),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(payment, attempt, error):
    platform = stage(payment)

    with pytest.raises(error):
        attempt(platform)

    assert platform.advance(days=1) == 0


def test_an_event_that_the_broker_did_not_take_is_sent_later_by_the_outbox(payment):
    platform = stage(payment)
    platform.publish(ORDER)
    (runtime,) = platform._runtimes.values()
    runtime.publisher.fails = PublishError("the broker is down")

    platform.advance(seconds=3)
    assert platform.announced(PaymentCharged) == []

    runtime.publisher.fails = None
    platform.advance(seconds=10)
    assert len(platform.announced(PaymentCharged)) == 1


# -- the app --------------------------------------------------------------------------------------------------------


def test_the_app_is_as_before_after_each_call_and_after_an_error(payment):
    before, seen = payment.runtime, []

    @payment.on(PaymentFailed)
    def note(failed: PaymentFailed) -> None:
        seen.append(payment.runtime)

    platform = stage(payment)
    platform.publish(PaymentFailed())
    assert payment.runtime is before
    platform.run()
    assert payment.runtime is before
    assert seen[0] is not before
    platform.advance(minutes=1)
    assert payment.runtime is before

    with pytest.raises(DeclarationError):
        platform.publish("nothing")
    assert payment.runtime is before

    with pytest.raises(ZeroDivisionError), platform:
        1 / (payment.runtime is not seen[0])
    assert payment.runtime is before


def test_in_its_block_the_stage_gets_what_the_app_announces(payment):
    with stage(payment) as platform:
        payment.publish(ORDER, subject="ORD-1")
        payment.publish_many([ORDER.about("ORD-2"), ORDER.about("ORD-3")])
        platform.run()
        payment.publish(ORDER, subject="ORD-4")

    assert [event.meta.subject for event in platform.announced(PaymentCharged)] == ["ORD-1", "ORD-2", "ORD-3"]
    assert [event.meta.source for event in platform.announced(OrderPlaced)] == ["payment"] * 4


def test_a_block_in_a_block_of_the_same_stage_leaves_the_outer_one_open(payment):
    before, platform = payment.runtime, stage(payment)

    with platform:
        with platform:
            payment.publish(ORDER)
        payment.publish(ORDER)
    assert len(platform.events) == 2
    assert payment.runtime is before


def test_two_stages_with_one_app_know_nothing_of_each_other(payment):
    first, second = stage(payment), stage(payment)
    first.publish(ORDER, subject="ORD-1")
    first.run()

    assert second.events == []
    second.publish(ORDER, subject="ORD-2")
    second.run()

    with first:
        with second:
            payment.publish(ORDER, subject="ORD-4")
        payment.publish(ORDER, subject="ORD-3")

    assert [event.meta.subject for event in first.announced(OrderPlaced)] == ["ORD-1", "ORD-3"]
    assert [event.meta.subject for event in second.announced(OrderPlaced)] == ["ORD-2", "ORD-4"]


def test_a_stage_reads_no_configuration_and_finalizes_no_app():
    class Unreadable:
        def __getattr__(self, name: str):
            raise AssertionError(f"{name} was read")

    app = Service("payment", config=Unreadable(), set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced, context: Context) -> PaymentCharged:
        if context.attempt == 1:
            raise RetryLater(5)
        app.publish(PaymentCharged(), delay=5)
        raise PermanentFailure("no")

    platform = stage(app)
    platform.publish(ORDER)
    platform.advance(seconds=10)

    assert len(platform.dead_letters) == 1
    assert len(platform.deliveries) == 3
    assert not app.configured
    assert not app.finalized


def test_celery_keeps_what_it_makes_of_the_app_while_a_stage_is_there(payment):
    with stage(payment):
        task = payment.tasks["payment.charge"]
        queues = payment.amqp.queues
    assert task.app.runtime is payment.runtime
    (queue,) = [queue for name, queue in queues.items() if name == "payment.charge"]
    assert queue.park == payment.runtime._park


def test_services_that_cannot_be_on_one_stage_are_refused(payment):
    with pytest.raises(DeclarationError, match="two services are called 'payment'"):
        stage(payment, make_service("payment"))
    with pytest.raises(DeclarationError, match="it is no service"):
        stage("payment")
    with pytest.raises(DeclarationError, match="no services"):
        stage()
    with pytest.raises(DeclarationError, match="no time zone"):
        stage(payment, start=datetime(2030, 1, 1))


def test_a_handler_cannot_run_the_stage_that_it_is_on():
    app, errors = make_service("payment"), []

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        for call in (platform.run, platform.advance):
            with pytest.raises(RuntimeError, match=r"in the middle of payment.charge\(order.placed\)") as caught:
                call()
            errors.append(caught.value)

    platform = stage(app)
    platform.publish(ORDER)
    platform.run()

    assert len(errors) == 2


def test_ctrl_c_in_a_handler_ends_the_test():
    app = make_service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        raise KeyboardInterrupt

    platform, before = stage(app), app.runtime
    platform.publish(ORDER)

    with pytest.raises(KeyboardInterrupt):
        platform.run()
    assert app.runtime is before


def test_a_delivery_of_which_nothing_was_recorded_is_made_again(payment, monkeypatch):
    platform = stage(payment)
    platform.publish(ORDER)
    (runtime,) = platform._runtimes.values()

    def down(*_):
        raise OSError("no store")

    monkeypatch.setattr(runtime.store, "begin", down)
    with pytest.raises(OSError, match="no store"):
        platform.run()
    monkeypatch.undo()

    assert platform.deliveries == []
    assert platform.run() == 1


# -- loops ------------------------------------------------------------------------------------------------------


def loop_stage() -> Stage:
    payment, restaurant = make_service("payment"), make_service("restaurant")

    @payment.on(OrderPlaced, OrderConfirmed)
    def charge(event: Envelope) -> PaymentCharged:
        return PaymentCharged()

    @restaurant.on(PaymentCharged)
    def confirm(charged: PaymentCharged) -> None:
        # In a story of its own, so that no causation id leads back.
        payment.publish(OrderConfirmed(), subject="ORD-1")

    return stage(payment, restaurant)


def test_an_endless_loop_ends_with_an_error_that_names_it():
    platform = loop_stage()
    platform.publish(ORDER, subject="ORD-1")

    with pytest.raises(EndlessLoopError) as caught:
        platform.run(most=100)

    assert len(platform.deliveries) == 100
    assert str(caught.value).startswith("100 deliveries, and 1 more are pending. Is this an endless loop? ")
    assert "payment.charged -> restaurant.confirm -> order.confirmed -> payment.charge -> payment.charged. " in str(
        caught.value
    ) or "order.confirmed -> payment.charge -> payment.charged -> restaurant.confirm -> order.confirmed. " in str(
        caught.value
    )
    assert isinstance(caught.value, AssertionError)


def test_the_bound_is_not_reached_by_that_many_deliveries(payment):
    platform = stage(payment)
    for _ in range(10):
        platform.publish(ORDER)

    assert platform.run(most=10) == 10


def test_a_loop_through_time_ends_as_well():
    app = make_service("payment")

    @app.on(OrderPlaced)
    def again(order: OrderPlaced) -> OrderPlaced | None:
        app.publish(order, delay=1)

    platform = stage(app)
    platform.publish(ORDER)

    with pytest.raises(EndlessLoopError, match=r"loop\? order.placed -> payment.again -> order.placed\."):
        platform.advance(days=1, most=100)


# -- what a failed test reads -----------------------------------------------------------------------------------


def failed(driver: Service) -> Stage:
    """An order whose payment fails: the driver waits in vain."""
    payment, _ = failing(RetryLater(5, "no answer"), PermanentFailure("the account is frozen"))
    platform = stage(payment, driver, start=NOON)
    platform.publish(ORDER, subject="ORD-1")
    platform.publish(OrderConfirmed(), subject="ORD-1")
    platform.publish(PaymentFailed(), subject="ORD-2")
    platform.advance(seconds=6)
    return platform


WHOLE = """\
What happened on the stage about ORD-1, until 2030-01-01 12:00:06:
  announced
    12:00:00  order.placed ORD-1  by test
    12:00:00  order.confirmed ORD-1  by test
    12:00:05  dead_letter.recorded ORD-1  by payment.charge
  deliveries
    12:00:00  payment.charge(order.placed ORD-1)  attempt 1 of 6 failed, the next is in 5.0 s: RetryLater: no answer
    12:00:00  driver.assign(order.confirmed ORD-1)  waiting, 1 of its events are here
    12:00:05  payment.charge(order.placed ORD-1)  dead letter: PermanentFailure: the account is frozen
    12:00:05  payment.dead_letters(order.placed ORD-1)  told of the dead letter
  dead letters
    payment.charge(order.placed ORD-1): refused, PermanentFailure: the account is frozen
  pending joins
    driver.assign ORD-1 waits for payment.charged, until 12:30:00"""


def test_an_assertion_of_one_event_tells_what_happened_instead(driver):
    platform = failed(driver)

    with pytest.raises(AssertionError) as caught:
        platform.announced(DriverAssigned, subject="ORD-1").one()

    assert str(caught.value) == f"no driver.assigned about ORD-1 instead of 1.\n\n{WHOLE}"


def test_an_unpacking_tells_what_happened_instead(driver):
    platform = failed(driver)

    with pytest.raises(AssertionError) as none:
        [_] = platform.announced(DriverAssigned, subject="ORD-1")
    with pytest.raises(AssertionError, match=r"1 order\.placed instead of 2"):
        _, _ = platform.announced(OrderPlaced)

    assert str(none.value) == f"no driver.assigned about ORD-1 instead of 1.\n\n{WHOLE}"
    [placed] = platform.announced(OrderPlaced)
    assert placed == ORDER


def test_an_empty_list_is_an_ordinary_one_otherwise(driver):
    nothing = failed(driver).announced(DriverAssigned)

    assert nothing == []
    assert [*nothing] == list(nothing) == [event for event in nothing] == []  # noqa: C416
    assert not nothing
    first, *rest = [*nothing, 1]
    assert (first, rest) == (1, [])


def test_a_failed_assert_prints_one_line_of_what_happened(driver):
    platform = failed(driver)

    assert repr(platform.announced(DriverAssigned, subject="ORD-1")) == (
        "[] (no driver.assigned about ORD-1; announced: order.placed, order.confirmed, dead_letter.recorded; "
        "failed: payment.charge: RetryLater, payment.charge: PermanentFailure; driver.assign waits for payment.charged)"
    )
    assert repr(platform.announced(OrderPlaced)) == f"[{ORDER!r}]"


def test_a_test_that_forgot_to_run_is_told_so(payment):
    platform = stage(payment)
    platform.publish(ORDER, subject="ORD-1")

    assert "not delivered yet: 1, call run()" in repr(platform.announced(PaymentCharged))
    assert "not delivered yet, call run()\n    payment.charge(order.placed ORD-1)" in platform.story


def test_a_long_story_is_cut_at_its_beginning(payment):
    platform = stage(payment)
    for number in range(100):
        platform.publish(ORDER, subject=f"ORD-{number}")
    platform.run()

    assert "... 160 more before" in platform.story
    assert "ORD-99" in platform.story
    assert "ORD-3 " not in platform.story
