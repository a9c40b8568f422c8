"""The outage breaker, with a clock that the tests turn: what becomes of the events of an outage."""

import random
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from choreo import (
    Breaker,
    Context,
    HandlerPaused,
    HandlerResumed,
    PermanentFailure,
    Reason,
    Retry,
    RetryLater,
    Service,
)
from choreo.observe.resuming import hint
from choreo.store.pauses import BREAKER, Pause
from choreo.store.runs import Recording
from choreo.testing import Stage, stage
from tests.unit.events import OrderConfirmed, OrderPlaced, PaymentCharged, PaymentFailed

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Later(RetryLater):
    def __init__(self) -> None:
        super().__init__(5)

    def __copy__(self) -> "Later":
        return Later()


class Gateway:
    """The dependency of a handler. ``error`` is what it raises; None: it works."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        #: The subjects of orders that always fail.
        self.poison: set[str] = set()
        self.calls: list[tuple[datetime, str, int]] = []
        self.charged: list[str] = []

    def charge(self, context: Context, now: datetime) -> None:
        self.calls.append((now, context.subject, context.attempt))
        if context.subject in self.poison:
            raise KeyError("currency")
        if self.error is not None:
            raise copy(self.error)
        self.charged.append(context.subject)


class Platform:
    """A payment service whose gateway can be away, on a stage."""

    def __init__(self, retry: Retry, **options: object) -> None:
        self.gateway = Gateway()
        self.app = Service("payment", config=None, set_as_current=False, **options)

        @self.app.on(OrderPlaced, retry=retry)
        def charge(order: OrderPlaced, context: Context) -> PaymentCharged:
            self.gateway.charge(context, self.stage.now)
            return PaymentCharged(amount_cents=order.total_cents)

        self.stage: Stage = stage(self.app, start=NOON)

    def place(self, *numbers: int) -> None:
        for number in numbers:
            self.stage.publish(OrderPlaced(customer_id="alice", total_cents=5), subject=f"ORD-{number}")

    @property
    def pause(self):
        with self.stage:
            return self.app.runtime.store.pause_of("payment.charge")

    @property
    def charged(self) -> list[str]:
        return sorted(self.gateway.charged)


RETRY = Retry(times=5, first=1.0, cap=60.0, breaker=Breaker(failures=5, first=1.0, cap=30.0))


@pytest.fixture
def platform() -> Platform:
    return Platform(RETRY)


def orders(*numbers: int) -> list[str]:
    return sorted(f"ORD-{number}" for number in numbers)


@pytest.mark.parametrize("count", [1, 2, 5, 200])
def test_an_outage_of_ten_minutes_makes_no_dead_letters(platform, count):
    platform.gateway.error = ConnectionError("the gateway is away")
    platform.place(*range(count))

    platform.stage.advance(minutes=10)

    assert platform.stage.dead_letters == []
    assert platform.charged == []
    platform.gateway.error = None
    platform.stage.advance(minutes=1)
    assert platform.charged == orders(*range(count))
    assert platform.stage.dead_letters == []
    assert platform.pause is None
    assert platform.stage.pending == []


def test_an_outage_costs_few_calls(platform):
    platform.gateway.error = ConnectionError("the gateway is away")
    platform.place(*range(200))

    platform.stage.advance(minutes=10)

    # 5 to open, then after 1, 2, 4, 8, 16 and 30 seconds.
    assert 5 + 20 <= len(platform.gateway.calls) <= 5 + 5 + 20


def test_events_that_come_during_an_outage_wait(platform):
    platform.gateway.error = ConnectionError("the gateway is away")
    for number in range(30):
        platform.place(number)
        platform.stage.advance(seconds=20)

    assert platform.stage.dead_letters == []
    platform.gateway.error = None
    platform.stage.advance(seconds=31)
    assert platform.charged == orders(*range(30))


def test_probes_are_made_one_at_a_time_after_growing_waits(platform):
    platform.gateway.error = ConnectionError("the gateway is away")
    platform.place(*range(5))
    platform.stage.run()
    opened = len(platform.gateway.calls)

    platform.stage.advance(seconds=100)

    waits = [1, 2, 4, 8, 16, 30, 30]
    moments = [NOON + timedelta(seconds=sum(waits[: number + 1])) for number in range(len(waits))]
    assert opened == 5
    assert [at for at, _, _ in platform.gateway.calls[opened:]] == moments


def test_the_pause_says_why_since_when_and_when_the_next_event_is_tried(platform):
    platform.gateway.error = ConnectionError("the gateway is away")
    platform.place(*range(5))
    platform.stage.run()

    assert platform.pause.by == "breaker"
    assert platform.pause.since == NOON
    assert platform.pause.error.startswith("ConnectionError test_breaker_stage:")
    assert platform.pause.error.endswith(": the gateway is away")
    assert (platform.pause.failures, platform.pause.probes) == (5, 0)
    assert platform.pause.probe_at == NOON + timedelta(seconds=1)

    platform.stage.advance(seconds=1.5)
    assert (platform.pause.failures, platform.pause.probes) == (6, 1)
    assert platform.pause.probe_at == NOON + timedelta(seconds=1 + 2)
    assert platform.pause.since == NOON
    assert platform.pause.prober == ""


def test_a_success_begins_the_row_anew(platform):
    for number in range(20):
        platform.gateway.error = None if number % 5 == 4 else ConnectionError("the gateway is away")
        platform.place(number)
        platform.stage.run()

    assert platform.pause is None


def test_the_poison_of_one_order_does_not_open_the_breaker_while_others_succeed(platform):
    platform.gateway.poison = {"ORD-0"}
    platform.place(0)
    for number in range(1, 200):
        platform.place(number)
        platform.stage.advance(seconds=1)
        assert platform.pause is None

    assert platform.charged == orders(*range(1, 200))
    [letter] = platform.stage.dead_letters
    assert (letter.reason, letter.attempts, letter.subject) == (Reason.EXHAUSTED, 6, "ORD-0")


def test_the_poison_of_many_orders_does_not_open_the_breaker_while_others_succeed(platform):
    random.seed(20)  # the waits between the attempts
    platform.gateway.poison = {f"ORD-{number}" for number in range(0, 200, 20)}
    for number in range(200):
        platform.place(number)
        platform.stage.advance(seconds=1)
        assert platform.pause is None

    assert len(platform.charged) == 190
    platform.stage.advance(minutes=5)  # now only poison is left
    platform.place(201)
    platform.stage.advance(minutes=2)
    assert len(platform.stage.dead_letters) == 10
    assert platform.pause is None


def test_poison_does_not_stand_before_the_orders_that_come_later(platform):
    platform.gateway.poison = {f"ORD-{number}" for number in range(10)}
    platform.place(*range(10))
    platform.stage.advance(minutes=20)
    assert platform.pause is not None

    platform.place(99)
    platform.stage.advance(seconds=31)

    assert platform.charged == ["ORD-99"]
    for number in range(100, 300):
        platform.place(number)
        platform.stage.advance(seconds=1)
    assert len(platform.stage.dead_letters) == 10


def test_poison_that_opened_the_breaker_becomes_a_dead_letter_once_another_order_succeeds(platform):
    platform.gateway.poison = {"ORD-0"}
    platform.place(0)
    platform.stage.advance(minutes=5)
    assert platform.pause is not None

    platform.place(1)
    platform.stage.advance(minutes=10)

    assert platform.charged == ["ORD-1"]
    assert platform.pause is None
    assert [letter.subject for letter in platform.stage.dead_letters] == ["ORD-0"]


def test_an_attempt_that_fails_during_the_outage_does_not_count(platform):
    platform.gateway.error = ConnectionError("the gateway is away")
    platform.place(1)
    platform.stage.advance(minutes=10)

    attempts = [attempt for _, _, attempt in platform.gateway.calls]
    assert attempts[:5] == [1, 2, 3, 4, 5]
    assert set(attempts[5:]) == {5}


def test_an_event_on_its_last_attempt_waits_too_if_nothing_has_succeeded_since():
    platform = Platform(Retry(times=2, first=1.0, breaker=Breaker(failures=50)))
    platform.gateway.error = ConnectionError("the gateway is away")
    platform.place(1)
    platform.stage.advance(minutes=10)
    assert platform.stage.dead_letters == []

    platform.gateway.error = None
    platform.stage.advance(minutes=1)
    assert platform.charged == ["ORD-1"]


def test_an_outage_that_shows_itself_in_several_ways_makes_no_dead_letters(platform):
    platform.place(1)
    for number in range(120):
        platform.gateway.error = (ConnectionError, TimeoutError, OSError)[number % 3]("away")
        platform.stage.advance(seconds=5)

    assert platform.stage.dead_letters == []
    assert platform.pause is not None


def test_failures_of_one_kind_count_together_and_others_apart(platform):
    for number, error in enumerate([ConnectionError("a"), KeyError("b")] * 4):
        platform.gateway.error = error
        platform.place(number)
        platform.stage.run()
    assert platform.pause is None  # four of each kind

    platform.gateway.error = KeyError("b")
    platform.place(9)
    platform.stage.run()
    assert platform.pause.error.startswith("KeyError")


@pytest.mark.parametrize("error", [PermanentFailure("frozen"), Later(), ValueError("never")])
def test_an_answer_of_the_handler_is_no_failure(error):
    platform = Platform(Retry(times=5, never=(ValueError,), breaker=Breaker()))
    platform.gateway.error = error
    platform.place(*range(30))
    platform.stage.run()

    assert platform.pause is None


def test_answers_do_not_end_the_row(platform):
    for number in range(9):
        platform.gateway.error = PermanentFailure("frozen") if number % 2 else ConnectionError("away")
        platform.place(number)
        platform.stage.run()

    assert platform.pause is not None


@pytest.mark.parametrize("error", [PermanentFailure("frozen"), Later()])
def test_a_probe_that_gets_an_answer_closes_the_breaker(platform, error):
    platform.gateway.error = ConnectionError("away")
    platform.place(*range(5))
    platform.stage.run()

    platform.gateway.error = error
    platform.stage.advance(seconds=2)

    assert platform.pause is None


def test_a_probe_that_fails_in_another_way_keeps_the_breaker_open(platform):
    platform.gateway.error = ConnectionError("away")
    platform.place(*range(5))
    platform.stage.run()

    platform.gateway.error = TimeoutError("slow")
    platform.stage.advance(seconds=1.5)

    assert platform.pause.error.startswith("TimeoutError")
    assert platform.pause.probe_at == NOON + timedelta(seconds=3)


def test_an_event_that_cannot_be_read_decides_nothing(platform):
    platform.gateway.error = ConnectionError("away")
    platform.stage.publish(OrderPlaced(customer_id="alice", total_cents=5), subject="ORD-1")
    platform.stage.advance(seconds=60)
    assert platform.pause is not None
    strange = OrderPlaced(customer_id="bob", total_cents=5).sealed(
        id="x", source="test", subject="ORD-2", cause=None, time=NOON
    )
    platform.stage.publish(replace(strange, data={"customer_id": []}))
    platform.stage.advance(minutes=3)

    assert [letter.reason for letter in platform.stage.dead_letters] == [Reason.UNREADABLE]
    assert platform.pause is not None
    platform.gateway.error = None
    platform.stage.advance(minutes=1)
    assert platform.charged == ["ORD-1"]


def test_without_a_breaker_everything_is_as_before():
    platform = Platform(Retry(times=5))
    platform.gateway.error = ConnectionError("away")
    platform.place(*range(20))
    platform.stage.advance(minutes=10)

    assert len(platform.stage.dead_letters) == 20
    assert len(platform.gateway.calls) == 20 * 6


def test_a_breaker_of_the_service_is_for_all_its_handlers():
    app = Service("payment", config=None, set_as_current=False, retry=Retry(breaker=Breaker(failures=2)))
    gateway = Gateway()
    gateway.error = ConnectionError("away")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced, context: Context) -> None:
        gateway.charge(context, NOON)

    @app.on(OrderPlaced)
    def note(order: OrderPlaced) -> PaymentFailed:
        return PaymentFailed(reason="?")

    platform = stage(app, start=NOON)
    for number in range(4):
        platform.publish(OrderPlaced(customer_id="alice", total_cents=5), subject=f"ORD-{number}")
    platform.run()

    assert len(gateway.calls) == 2
    assert len(platform.announced(PaymentFailed)) == 4  # the other handler goes on


def test_a_person_closes_the_breaker_and_one_failure_opens_it_again(platform):
    platform.gateway.error = ConnectionError("away")
    platform.place(*range(20))
    platform.stage.run()
    calls = len(platform.gateway.calls)

    with platform.stage:
        assert platform.app.pauses.resume("payment.charge")
    platform.stage.run()

    assert platform.pause is not None
    assert len(platform.gateway.calls) == calls + 1


def test_a_pause_by_hand_takes_the_place_of_the_breakers(platform):
    platform.gateway.error = ConnectionError("away")
    platform.place(*range(20))
    platform.stage.run()
    with platform.stage:
        platform.app.pauses.pause("payment.charge", timedelta(hours=1), reason="maintenance")
    calls = len(platform.gateway.calls)

    platform.stage.advance(minutes=59)
    assert len(platform.gateway.calls) == calls

    platform.gateway.error = None
    platform.stage.advance(minutes=2)
    assert platform.charged == orders(*range(20))


def test_a_handler_that_fails_again_is_paused_again(platform):
    for _ in range(3):
        platform.gateway.error = ConnectionError("away")
        platform.place(*range(100, 120))
        platform.stage.advance(minutes=3)
        assert platform.pause is not None
        platform.gateway.error = None
        platform.stage.advance(minutes=3)
        assert platform.pause is None

    assert platform.stage.dead_letters == []


class Pickup:
    """A service with a join behind a breaker."""

    def __init__(self, **options: object) -> None:
        self.error: Exception | None = ConnectionError("the fleet is away")
        self.calls: list[str] = []
        self.late: list[str] = []
        self.app = Service("driver", config=None, set_as_current=False)

        def late(confirmed: OrderConfirmed | None, charged: PaymentCharged | None, context: Context) -> None:
            self.late.append(context.subject)

        @self.app.join(
            OrderConfirmed,
            PaymentCharged,
            within=timedelta(minutes=5),
            on_timeout=late,
            retry=Retry(breaker=Breaker(failures=2)),
            **options,
        )
        def assign(confirmed: OrderConfirmed, charged: PaymentCharged, context: Context) -> None:
            self.calls.append(context.subject)
            if self.error:
                raise copy(self.error)

        self.stage = stage(self.app, start=NOON)


@pytest.mark.parametrize("rounds", [False, True])
def test_a_join_that_fails_during_an_outage_runs_once_with_all_its_parts(rounds):
    pickup = Pickup(rounds=rounds)
    for number in range(4):
        pickup.stage.publish(OrderConfirmed(), subject=f"ORD-{number}")
        pickup.stage.publish(PaymentCharged(amount_cents=5), subject=f"ORD-{number}")
    pickup.stage.advance(minutes=20)  # beyond the deadline: they were complete in time
    assert pickup.stage.dead_letters == []
    assert pickup.late == []

    pickup.error, before = None, len(pickup.calls)
    pickup.stage.advance(minutes=2)
    assert sorted(pickup.calls[before:]) == orders(*range(4))
    assert pickup.late == []
    assert pickup.stage.dead_letters == []
    assert pickup.stage.joins == []


def test_a_join_that_is_incomplete_at_its_deadline_ends_as_declared():
    pickup = Pickup()
    for number in range(2):
        pickup.stage.publish(OrderConfirmed(), subject=f"ORD-{number}")
        pickup.stage.publish(PaymentCharged(amount_cents=5), subject=f"ORD-{number}")
    pickup.stage.run()
    pickup.stage.publish(OrderConfirmed(), subject="ORD-8")
    pickup.stage.advance(minutes=20)

    pickup.error = None
    pickup.stage.advance(minutes=2)

    assert pickup.late == ["ORD-8"]
    assert pickup.stage.joins == []
    assert pickup.stage.dead_letters == []


def test_the_tools_say_that_the_breaker_is_open_why_and_when_it_probes(platform):
    platform.gateway.error = ConnectionError("the gateway is away")
    platform.place(1)
    platform.stage.advance(minutes=3)
    since = f"{platform.pause.since:%H:%M:%S}"

    with platform.stage:
        [trace] = platform.app.observe.trace("ORD-1")
        why_not = platform.app.observe.why_not("payment.charged", "ORD-1")
        [stuck] = platform.app.observe.stuck()
    assert (stuck.what, stuck.count, stuck.cause) == ("payment.charge", 1, "paused")
    assert "UTC by its breaker: ConnectionError test_breaker_stage:" in stuck.detail
    assert "the next probe is at " in stuck.detail
    for cause in (trace.cause, why_not.cause):
        assert f"payment.charge is paused since {since} by its breaker: ConnectionError test_breaker_sta" in cause.text
        assert "; the next probe is in " in cause.text
        mend, hurry, resume = cause.do
        assert mend.startswith("# mend what it depends on: it then goes on by itself (the next probe is in ")
        assert (hurry, resume) == ("# to hurry, once that is mended:", "choreo resume payment.charge")
    assert list(stuck.do) == [
        "mend what payment.charge depends on: it then goes on by itself",
        "choreo resume payment.charge   # to hurry",
    ]
    told = hint(Pause("payment.charge", by=BREAKER))
    assert told.startswith("it goes on by itself once what it depends on is mended, and `choreo resume payment.charge`")
    assert "attempt 5 of 6 of payment.charge waits for the end of an outage" in trace.cause.text


def test_whoever_probes_is_named(platform):
    seen: list[str] = []
    platform.gateway.error = ConnectionError("the gateway is away")
    platform.place(*range(5))
    platform.stage.run()
    charge = platform.gateway.charge

    def look(context: Context, now: datetime) -> None:
        seen.append(str(platform.app.runtime.store.pause_of("payment.charge")))
        charge(context, now)

    platform.gateway.charge = look  # type: ignore[method-assign]
    platform.stage.advance(seconds=1)

    assert seen[0].endswith("the gateway is away; payment probes now")


@pytest.mark.parametrize("recording", [Recording(), Recording(length=0), Recording(sample=0.0)])
def test_successes_end_the_row_also_if_no_runs_are_recorded(platform, recording):
    with platform.stage:
        platform.app.runtime.store._recording = recording
    for number in range(40):
        platform.gateway.error = ConnectionError("away") if number % 4 else None
        platform.place(number)
        platform.stage.run()

    assert platform.pause is None


def test_the_breaker_is_announced_once_each_time(platform):
    platform.gateway.error = ConnectionError("away")
    platform.place(*range(20))
    platform.stage.advance(minutes=5)
    platform.gateway.error = None
    platform.stage.advance(minutes=5)

    [paused] = platform.stage.announced(HandlerPaused)
    [resumed] = platform.stage.announced(HandlerResumed)
    assert (paused.handler, paused.by) == ("payment.charge", "breaker")
    assert paused.reason.startswith("ConnectionError test_breaker_stage:")
    assert (resumed.handler, resumed.by) == ("payment.charge", "breaker")


def test_an_outage_of_a_handler_that_a_person_has_slowed_down_makes_no_dead_letters(platform):
    platform.place(0)
    platform.stage.run()
    with platform.stage:
        platform.app.pauses.pause("payment.charge", rate=5)
    platform.gateway.error = ConnectionError("away")
    platform.place(*range(1, 9))
    platform.stage.advance(minutes=10)
    assert platform.stage.dead_letters == []

    platform.gateway.error = None
    platform.stage.advance(minutes=1)
    assert platform.charged == orders(*range(9))
    assert platform.pause.rate == 5


def test_what_fails_while_a_person_has_paused_the_handler_waits_for_that_person(platform):
    platform.gateway.error = ConnectionError("away")
    platform.place(*range(4))
    platform.stage.run()
    charge = platform.gateway.charge

    def pause_and_charge(context: Context, now: datetime) -> None:
        platform.app.pauses.pause("payment.charge", timedelta(hours=2))
        charge(context, now)

    platform.gateway.charge = pause_and_charge  # type: ignore[method-assign]
    platform.place(9)
    platform.stage.run()
    platform.stage.advance(hours=1)
    platform.gateway.error, platform.gateway.charge = None, charge  # type: ignore[method-assign]
    assert platform.charged == []
    platform.stage.advance(hours=2)

    assert platform.charged == orders(0, 1, 2, 3, 9)
    assert platform.stage.dead_letters == []


def test_what_is_held_is_a_retry_that_a_person_can_drop(platform):
    platform.gateway.error = ConnectionError("away")
    platform.place(*range(5))
    platform.stage.run()

    with platform.stage:
        [entry, *_] = platform.app.schedule.find("ORD-4")
        dropped = platform.app.schedule.drop(entry.id)
    platform.gateway.error = None
    platform.stage.advance(minutes=1)

    assert (entry.kind, entry.attempt) == ("retry", 1)
    assert [letter.id for letter in platform.stage.dead_letters] == [dropped.letter.id]
    assert platform.charged == orders(0, 1, 2, 3)
