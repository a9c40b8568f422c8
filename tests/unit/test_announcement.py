"""Events that leave later. Without a broker, and in made-up time."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from choreo import Announcement, Context, PermanentFailure, Retry, RetryLater
from choreo.declare.delay import Delay
from choreo.delivery.clock import BATCH_MESSAGES, Clock
from choreo.errors import DeclarationError, EventTooLargeError
from choreo.store import DELAYED, Scheduled
from choreo.store.schedule import TENDED
from tests.unit.events import OrderPlaced, PaymentCharged, PaymentFailed
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice")


@pytest.fixture
def stage() -> Stage:
    return Stage(service("payment"))


# -- outside a handler ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [60, 60.0, timedelta(minutes=1)])
def test_a_delayed_event_leaves_when_its_time_has_come(stage, delay):
    announced = stage.app.publish(ORDER, subject="ORD-1", delay=delay)
    assert isinstance(announced, Announcement)

    stage.pass_time(59)
    assert stage.types == []

    stage.pass_time(2)
    assert stage.events == [announced.envelope]
    assert (announced.envelope.subject, announced.id) == ("ORD-1", announced.envelope.id)
    stage.pass_time(1000)
    assert stage.types == ["order.placed"]


def test_an_event_leaves_at_a_moment_by_the_clock_of_the_store(stage):
    at = datetime.fromtimestamp(stage.store.now() + 90, ZoneInfo("Europe/Berlin"))

    announced = stage.app.publish(ORDER, at=at)

    assert announced.at == announced.envelope.time == at
    stage.pass_time(89)
    assert stage.types == []
    stage.pass_time(2)
    assert stage.types == ["order.placed"]


def test_a_moment_that_has_passed_is_now(stage):
    stage.app.publish(ORDER, at=datetime(1969, 1, 1, tzinfo=UTC))

    stage.pass_time(0)

    assert stage.types == ["order.placed"]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({"at": datetime(2030, 1, 1)}, "has no time zone. Write datetime(..., tzinfo=UTC)"),
        ({"at": "tomorrow"}, "at='tomorrow' is not a moment"),
        ({"delay": -1}, "delay=-1 is not a time to wait"),
        ({"delay": timedelta(seconds=-1)}, "is not a time to wait"),
        ({"delay": float("nan")}, "delay=nan is not a time to wait"),
        ({"delay": float("inf")}, "delay=inf is not a time to wait"),
        ({"delay": True}, "delay=True is not a time to wait"),
        ({"delay": "5 s"}, "Write delay=timedelta(minutes=30), or seconds from 0."),
        ({"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)}, "give one of them"),
    ],
)
def test_what_is_no_time_is_refused_and_nothing_is_kept(stage, when, said):
    with pytest.raises(DeclarationError) as caught:
        stage.app.publish(ORDER, **when)

    assert said in str(caught.value)
    assert stage.store.backlog(DELAYED).total == 0


def test_an_event_that_could_not_be_sent_later_is_refused_now(stage):
    with pytest.raises(EventTooLargeError):
        stage.app.publish(OrderPlaced(customer_id="x" * 300_000), delay=1)

    assert stage.store.backlog(DELAYED).total == 0


def test_an_event_that_was_called_off_in_time_does_not_leave(stage):
    announced = stage.app.publish(ORDER, delay=60)

    assert announced.cancel()

    assert not announced.cancel()
    stage.pass_time(120)
    assert stage.types == []


def test_an_event_that_has_left_cannot_be_called_off(stage):
    announced = stage.app.publish(ORDER, delay=60)
    stage.pass_time(61)

    assert not announced.cancel()
    assert stage.types == ["order.placed"]


def test_an_event_that_may_be_leaving_right_now_cannot_be_called_off(stage):
    announced = stage.app.publish(ORDER, delay=60)
    stage.wait(61)
    stage.store.due(DELAYED, 10, 10.0)

    assert not announced.cancel()


def test_an_event_can_be_called_off_by_its_key_in_another_process(stage):
    announced = stage.app.publish(ORDER, delay=60)
    other = Stage(service("web"))
    other.app.runtime.store = stage.store

    assert other.app.call_off(announced.key)
    assert not announced.cancel()


@pytest.mark.parametrize("key", ["", "nonsense", "delayed/", "delayed/?", "a/b/c"])
def test_a_key_of_nothing_calls_nothing_off(stage, key):
    assert not stage.app.call_off(key)


def test_workers_of_any_service_send_what_a_program_without_workers_has_announced(stage):
    web = service("web")
    web.runtime.store, web.runtime.publisher = stage.store, stage.publisher
    web.publish(ORDER, delay=60)
    stage.wait(61)

    assert Clock(stage.app.runtime).tick() == 1
    assert stage.types == ["order.placed"]


def test_that_no_worker_would_send_it_is_said(stage, caplog):
    stage.store.tend(DELAYED, 0)
    stage.app.publish(ORDER, subject="ORD-1", delay=60)
    assert "order.placed ORD-1 waits in the store, and no worker of this namespace" in caplog.text

    caplog.clear()
    Clock(stage.app.runtime).tick()
    stage.app.publish(ORDER, delay=60)
    assert caplog.text == ""

    stage.wait(TENDED + 1)
    stage.app.publish(ORDER, delay=60)
    assert "no worker" in caplog.text


# -- in a handler -----------------------------------------------------------------------------------------------


def handling(behave, retry: Retry | None = None) -> Stage:
    app = service("payment")

    @app.on(OrderPlaced, retry=retry)
    def charge(order: OrderPlaced) -> PaymentCharged | PaymentFailed | None:
        return behave(app)

    return Stage(app)


def test_what_a_handler_delays_is_scheduled_with_its_success():
    stage = handling(lambda app: (app.publish(PaymentFailed(), delay=60), PaymentCharged())[1])

    stage.deliver(ORDER)
    assert stage.types == ["payment.charged"]

    stage.pass_time(61)
    assert stage.types == ["payment.charged", "payment.failed"]
    late = stage.events[1]
    assert (late.causation_id, late.subject, late.correlation_id) == ("e-1", "ORD-1", "story-1")


def test_what_a_failing_handler_delays_does_not_leave():
    def behave(app):
        app.publish(PaymentFailed(), delay=60)
        raise PermanentFailure

    stage = handling(behave)

    stage.deliver(ORDER)
    stage.pass_time(1000)

    assert stage.types == []


def test_a_handler_that_runs_again_delays_the_same_fact_once():
    ids, errors = [], [RetryLater(1)]

    def behave(app):
        ids.append(app.publish(PaymentFailed(), delay=60).id)
        if errors:
            raise errors.pop()

    stage = handling(behave, Retry(times=1))
    stage.deliver(ORDER)
    stage.pass_time(2)
    stage.pass_time(61)

    assert len(ids) == 2
    assert len(set(ids)) == 1
    assert stage.types == ["payment.failed"]


def test_a_moment_in_a_handler_is_kept_however_long_the_handler_takes():
    def behave(app):
        app.publish(PaymentFailed(), at=datetime.fromtimestamp(stage.store.now() + 60, UTC))
        stage.wait(50)

    stage = handling(behave)
    stage.deliver(ORDER)

    stage.pass_time(9)
    assert stage.types == []
    stage.pass_time(2)
    assert stage.types == ["payment.failed"]


def test_a_handler_can_change_its_mind_and_the_others_keep_their_ids():
    answers, ids = [], []

    def behave(app):
        first = app.publish(PaymentFailed(), delay=60)
        answers.extend([first.cancel(), first.cancel()])
        ids.extend([first.id, app.publish(PaymentCharged()).id])

    stage = handling(behave)
    stage.deliver(ORDER)
    stage.pass_time(61)

    assert answers == [True, False]
    assert len(set(ids)) == 2
    assert [event.id for event in stage.events] == ids[1:]


def test_what_a_handler_delayed_can_be_called_off_after_it_has_succeeded():
    announcements = []
    stage = handling(lambda app: announcements.append(app.publish(PaymentFailed(), delay=60)))
    stage.deliver(ORDER)

    (announced,) = announcements
    assert announced.cancel()
    stage.pass_time(61)
    assert stage.types == []


def test_a_delay_counts_from_the_success_and_a_moment_does_not(caplog):
    clocks = (lambda: 1000.0), (lambda: datetime.fromtimestamp(1001, UTC))

    assert Delay(after=5).seconds(*clocks) == 5
    assert Delay(at=datetime.fromtimestamp(1060, UTC)).seconds(*clocks) == 60
    assert Delay(at=datetime.fromtimestamp(900, UTC)).seconds(*clocks) == 0
    assert caplog.text == ""


# -- ten thousand at once ---------------------------------------------------------------------------------------


def test_ten_thousand_that_are_due_at_once_do_not_hold_up_the_others(stage):
    @stage.app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    message = stage.app.publisher.message_for(stage.app.publish(ORDER, delay=1000).envelope)
    for number in range(10_000):
        stage.store.schedule("payment.charge", Scheduled(f"retry:{number}", message))
    stage.app.publish(PaymentCharged(), delay=0)

    assert Clock(stage.app.runtime).tick() == 10_001

    places = [number for number, event in enumerate(stage.types) if event == "payment.charged"]
    assert max(places) <= 2 * BATCH_MESSAGES


def test_a_clock_that_is_told_to_stop_does_not_finish_ten_thousand_first(stage):
    clock = Clock(stage.app.runtime)
    for _ in range(5 * BATCH_MESSAGES):
        stage.app.publish(ORDER, delay=0)
    send = stage.publisher.send

    def send_and_stop(messages):
        send(messages)
        clock._daemon.end()

    stage.publisher.send = send_and_stop

    assert clock.tick() == BATCH_MESSAGES


# -- a machine whose clock is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False], ids=["in a handler", "outside"])
@pytest.mark.parametrize(("wrong", "said"), [(5, "5:00:00 ahead of it"), (-5, "5:00:00 behind it")])
def test_a_moment_goes_by_the_clock_of_the_store_and_a_wrong_clock_is_named(inside, wrong, said, caplog):
    moments = []

    def remind(app):
        moments.append(app.publish(PaymentFailed(), at=datetime.fromtimestamp(1060, UTC)).at)

    stage = handling(remind)
    stage.app.runtime.now = lambda: datetime.fromtimestamp(stage.store.now(), UTC) + timedelta(hours=wrong)
    if inside:
        stage.deliver(ORDER)
    else:
        remind(stage.app)

    stage.pass_time(59)
    assert stage.types == []
    stage.pass_time(2)
    assert stage.types == ["payment.failed"]
    assert f"at=1970-01-01T00:17:40+00:00 goes by the clock of the store, and the clock of this machine is {said}" in (
        caplog.text
    )


def test_a_handler_can_ask_for_the_time_of_the_store(caplog):
    app = service("payment")

    @app.on(OrderPlaced)
    def remind(order: OrderPlaced, context: Context) -> PaymentFailed | None:
        app.publish(PaymentFailed(), at=context.store_time() + timedelta(minutes=1))

    stage = Stage(app)
    stage.app.runtime.now = lambda: datetime.fromtimestamp(stage.store.now(), UTC) + timedelta(hours=5)
    stage.deliver(ORDER)

    stage.pass_time(59)
    assert stage.types == []
    stage.pass_time(2)
    assert stage.types == ["payment.failed"]
