"""The life of one delivery: run, failed, tried again, buried, joined. Without a broker, and in made-up time."""

import asyncio
from datetime import timedelta

import pytest

from choreo import (
    Context,
    Envelope,
    PermanentFailure,
    Reason,
    Retry,
    RetryLater,
    Terms,
    UndeclaredEventWarning,
)
from choreo.delivery.clock import Clock
from choreo.errors import PublishError, StoreError
from choreo.events.message import Message
from choreo.store import Claim, CommitResult, Outcome, Scheduled
from choreo.testing.publisher import MemoryPublisher
from tests.unit.events import (
    DriverAssigned,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PaymentCharged,
    PaymentFailed,
    envelope,
    identity_of,
)
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)
MINUTE = 60.0


class GatewayDown(Exception):
    pass


class CardRefused(Exception):
    pass


def stage_of(behave, retry: Retry | None = None, terms: Terms | None = None) -> Stage:
    """A payment service whose handler does what ``behave`` does with the order and its context."""
    app = service("payment", **({"terms": terms} if terms else {}))

    @app.on(OrderPlaced, retry=retry)
    def charge(order: OrderPlaced, context: Context):
        return behave(order, context)

    return Stage(app)


def failing(*errors: BaseException | None):
    """A handler that raises these one after another, and the last of them for ever; None is a success."""
    left = list(errors)

    def behave(order: OrderPlaced, context: Context):
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error
        return PaymentCharged()

    return behave


# -- success ----------------------------------------------------------------------------------------------------


def test_what_a_handler_returns_is_announced_once_it_succeeded():
    stage = stage_of(lambda order, *_: PaymentCharged(amount_cents=order.total_cents))

    result = stage.deliver(ORDER, subject="ORD-1", id="e-1")

    (announced,) = stage.events
    assert result.state == "SUCCESS"
    assert announced.type == "payment.charged"
    assert announced.data == {"amount_cents": 500}
    assert (announced.subject, announced.causation_id, announced.correlation_id) == ("ORD-1", "e-1", "story-1")
    assert stage.store.backlog("payment.charge").total == 0


def test_an_event_that_comes_again_is_not_handled_again():
    calls = []
    stage = stage_of(lambda order, *_: calls.append(order))

    stage.deliver(ORDER, id="e-1")
    stage.deliver(ORDER, id="e-1")
    stage.deliver(ORDER, id="e-2")

    assert len(calls) == 2


def test_publishing_inside_a_handler_leaves_with_what_it_returns_and_only_on_success():
    app = service("payment")
    fail = [True]

    @app.on(OrderPlaced, retry=Retry(times=1))
    def charge(order: OrderPlaced) -> PaymentFailed | PaymentCharged:
        app.publish(PaymentFailed())
        if fail.pop() if fail else False:
            raise GatewayDown
        return PaymentCharged()

    stage = Stage(app)

    stage.deliver(ORDER)
    assert stage.types == []

    stage.pass_time(MINUTE)
    assert stage.types == ["payment.failed", "payment.charged"]


def test_what_the_broker_did_not_take_is_sent_later_and_the_handler_is_not_called_again():
    calls = []

    def behave(order, context):
        calls.append(order)
        return PaymentCharged()

    stage = stage_of(behave)
    stage.publisher.fails = PublishError("the broker is down")

    assert stage.deliver(ORDER).state == "SUCCESS"
    assert stage.types == []

    stage.publisher.fails = None
    stage.pass_time(MINUTE)
    assert stage.types == ["payment.charged"]
    assert len(calls) == 1


def test_an_undeclared_event_fails_in_a_test_and_warns_in_production():
    app = service("payment")

    @app.on(OrderPlaced, retry=Retry(times=0))
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentFailed()

    stage = Stage(app)

    with pytest.warns(UndeclaredEventWarning, match="announced payment.failed"):
        stage.deliver(ORDER, id="e-1")
    assert stage.types == ["payment.failed"]

    stage.deliver(ORDER, id="e-2")
    assert [letter.envelopes[0].id for letter in stage.dead_letters] == ["e-2"]


def test_the_context_tells_the_attempt_and_a_key_that_stays_the_same():
    seen = []

    def behave(order, context):
        seen.append((context.attempt, context.attempts, context.idempotency_key))
        raise GatewayDown

    stage = stage_of(behave, Retry(times=2))
    stage.deliver(ORDER, id="e-1")
    stage.pass_time(MINUTE)
    stage.pass_time(MINUTE)

    assert [attempt for attempt, _, _ in seen] == [1, 2, 3]
    assert {attempts for _, attempts, _ in seen} == {3}
    assert len({key for _, _, key in seen}) == 1


# -- failure ----------------------------------------------------------------------------------------------------


def test_a_failure_is_tried_again_on_the_handlers_own_queue():
    stage = stage_of(failing(GatewayDown(), None), Retry(times=3, first=1, cap=1))

    assert stage.deliver(ORDER).state == "RETRY"
    assert stage.types == []

    (made,) = stage.pass_time(MINUTE)
    assert made.error is None
    assert stage.types == ["payment.charged"]


def test_a_retry_that_arrives_twice_is_one_attempt():
    calls = []

    def behave(order, context):
        calls.append(context.attempt)
        raise GatewayDown

    stage = stage_of(behave, Retry(times=5))

    for attempt in (1, 1, 2, 2, 1, 3):
        stage.deliver(ORDER, attempt=attempt)

    assert calls == [1, 2, 3]


def test_used_up_attempts_end_as_a_dead_letter_that_tells_all():
    stage = stage_of(failing(GatewayDown("503")), Retry(times=1))

    stage.deliver(ORDER, subject="ORD-1", id="e-1")
    (made,) = stage.pass_time(MINUTE)

    (letter,) = stage.dead_letters
    assert isinstance(made.error, GatewayDown)
    assert (letter.service, letter.handler, letter.reason) == ("payment", "payment.charge", Reason.EXHAUSTED)
    assert letter.error == "GatewayDown: 503"
    assert "raise error" in letter.traceback
    assert letter.attempts == 2
    assert letter.subject == "ORD-1"
    assert [found.id for found in letter.envelopes] == ["e-1"]


def test_the_service_is_told_of_its_dead_letter():
    stage = stage_of(failing(GatewayDown()), Retry(times=0))

    stage.deliver(ORDER)

    notice = stage.pending[0].message
    assert (notice.exchange, notice.routing_key) == ("", "payment.dead_letters")
    assert notice.headers["task"] == "payment.dead_letters"
    assert stage.dead_letters[0].id in notice.body.decode()


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (CardRefused("stolen"), Retry(never=(CardRefused,))),
        (CardRefused("stolen"), Retry(only=(GatewayDown,))),
        (PermanentFailure("no such card"), Retry()),
        (MemoryError("no room"), Retry(never=(MemoryError,))),
        (RecursionError("too deep"), Retry(only=(GatewayDown,))),
    ],
)
def test_an_error_that_is_never_retried_ends_as_a_dead_letter_at_once(error, retry):
    stage = stage_of(failing(error), retry)

    stage.deliver(ORDER)

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.REFUSED
    assert letter.attempts == 1
    assert str(error) in letter.error


def test_only_can_name_a_crash():
    stage = stage_of(failing(MemoryError("no room"), None), Retry(times=1, only=(MemoryError,)))

    assert stage.deliver(ORDER).state == "RETRY"


def test_data_that_does_not_fit_is_not_tried_again():
    stage = stage_of(failing(None))

    stage.deliver(envelope(ORDER, data={"customer": "alice"}))

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.UNREADABLE
    assert "customer_id" in letter.error


def test_retry_later_waits_as_long_as_it_says():
    stage = stage_of(failing(RetryLater(30), None), Retry(times=1))

    stage.deliver(ORDER)

    assert stage.pass_time(29) == []
    assert [made.error for made in stage.pass_time(2)] == [None]


@pytest.mark.parametrize(
    "crash",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        MemoryError(),
        RecursionError(),
        asyncio.CancelledError(),
        GeneratorExit(),
        BaseException("of a kind nobody knows"),
    ],
    ids=lambda crash: type(crash).__name__,
)
def test_what_would_end_the_worker_is_a_failure_like_any_other(crash):
    stage = stage_of(failing(crash), Retry(times=1))

    assert stage.deliver(ORDER).state == "RETRY"
    assert stage.deliver(ORDER, attempt=2).state == "FAILURE"

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.EXHAUSTED
    assert type(crash).__name__ in letter.error
    assert type(crash).__name__ in letter.traceback


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("I would rather not say")


def test_an_error_that_cannot_even_be_printed_still_ends_as_a_dead_letter():
    stage = stage_of(failing(Unspeakable()), Retry(times=0))

    stage.deliver(ORDER)

    (letter,) = stage.dead_letters
    assert "Unspeakable" in letter.error


def test_an_event_that_is_too_large_to_announce_fails_its_handler():
    stage = stage_of(lambda *_: OrderPlaced(customer_id="x" * 300_000), Retry(times=0))

    stage.deliver(ORDER)

    assert stage.types == []
    assert "EventTooLargeError" in stage.dead_letters[0].error


def test_a_store_that_does_not_answer_keeps_the_event_in_its_queue(monkeypatch):
    monkeypatch.setattr("choreo.worker.outage.STORE_PAUSE", 0)
    monkeypatch.setattr("choreo.worker.outage.MOST_SECONDS", 0)
    stage = stage_of(failing(None))

    def down(*args):
        raise StoreError("no store")

    monkeypatch.setattr(stage.store, "begin", down)

    result = stage.deliver(ORDER)

    assert result.state == "REJECTED"
    assert result.result.requeue


# -- two workers ------------------------------------------------------------------------------------------------


def claimed(stage: Stage, unit: str = identity_of("e-1"), token: str = "other") -> Claim:
    """Another worker holds the lease of this unit."""
    claim = Claim(stage.app.subscriptions[0].name, unit, token)
    stage.store.begin(claim)
    return claim


def test_an_event_that_another_worker_handles_comes_back_when_its_lease_has_run_out():
    stage = stage_of(failing(None), terms=Terms(lease=timedelta(seconds=15)))
    claimed(stage)

    stage.deliver(ORDER, id="e-1")

    assert stage.types == []
    assert stage.pass_time(14) == []
    assert [made.error for made in stage.pass_time(2)] == [None]
    assert stage.types == ["payment.charged"]


def test_a_copy_that_waits_again_is_not_forgotten_with_the_one_that_was_handed_out():
    stage = stage_of(failing(None), terms=Terms(lease=timedelta(seconds=15)))
    other = claimed(stage)
    stage.deliver(ORDER, id="e-1")

    # The clock hands the copy out and sends it; before it can say so, the copy is here and must wait once more.
    stage.wait(16)
    stage.store.renew(other)
    due = stage.store.due("payment.charge", 10, 10.0)
    stage.deliver(ORDER, id="e-1")
    stage.store.sent("payment.charge", [key for key, _ in due])

    stage.wait(16)
    assert [message.routing_key for _, message in stage.store.due("payment.charge", 10, 10.0)] == ["payment.charge"]


def test_a_worker_that_lost_its_lease_announces_nothing(caplog: pytest.LogCaptureFixture):
    stage = stage_of(lambda *_: (take_over(), PaymentCharged())[1])

    def take_over():
        stage.wait(1000)
        claimed(stage)

    result = stage.deliver(ORDER, id="e-1")

    assert stage.types == []
    assert "another worker has taken over" in result.result
    # Its effects elsewhere may have happened twice: also who logs nothing else shall read that.
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"payment.charge(order.placed ORD-1), {identity_of('e-1')}: too late: another worker has taken over"
    ]


def test_who_finds_his_own_commit_since_its_answer_was_lost_is_not_warned(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    stage = stage_of(failing(None))
    monkeypatch.setattr(stage.store, "commit", lambda *_: CommitResult(Outcome.ALREADY, repeated=True))

    result = stage.deliver(ORDER, id="e-1")

    assert "settled before" in result.result
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_an_event_that_kills_its_workers_ends_as_a_dead_letter():
    stage = stage_of(failing(None), terms=Terms(max_deliveries=2))
    for worker in ("first", "second"):
        claimed(stage, token=worker)
        stage.wait(MINUTE)

    stage.deliver(ORDER, id="e-1")

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.POISON
    assert letter.error == "begun 3 times and never finished"
    assert stage.types == []


# -- replay -----------------------------------------------------------------------------------------------------


def test_a_replayed_event_runs_with_all_its_attempts_and_announces_the_same_fact():
    stage = stage_of(failing(GatewayDown(), None), Retry(times=0))
    stage.deliver(ORDER, id="e-1")
    (letter,) = stage.dead_letters

    stage.app.dead_letters.replay(letter.id)
    (made,) = stage.pass_time(0)

    assert made.error is None
    assert stage.types == ["payment.charged"]
    assert stage.dead_letters == []


# -- joins ------------------------------------------------------------------------------------------------------


WITHIN = timedelta(minutes=30)


def join_stage(assign=None, on_timeout=None, retry: Retry | None = None) -> Stage:
    app = service("driver")

    def late(confirmed: OrderConfirmed | None, charged: PaymentCharged | None):
        return on_timeout(confirmed, charged)

    @app.join(
        OrderConfirmed,
        PaymentCharged,
        unless=OrderRejected,
        within=WITHIN,
        retry=retry,
        on_timeout=late if on_timeout else None,
        name="assign",
    )
    def assign_driver(confirmed: OrderConfirmed, charged: PaymentCharged, context: Context):
        return assign(confirmed, charged) if assign else DriverAssigned()

    return Stage(app)


CONFIRMED = envelope(OrderConfirmed(), id="c-1")
CHARGED = envelope(PaymentCharged(), id="p-1")
REJECTED = envelope(OrderRejected(), id="r-1")


@pytest.mark.parametrize("order", [(CONFIRMED, CHARGED), (CHARGED, CONFIRMED)])
def test_a_join_fires_once_when_all_its_parts_have_arrived_in_any_order(order):
    stage = join_stage()
    first, last = order

    stage.deliver(first)
    stage.deliver(first)
    assert stage.types == []

    stage.deliver(last)
    stage.deliver(last)
    stage.deliver(first)
    assert stage.types == ["driver.assigned"]
    assert stage.store.backlog("driver.assign").total == 0


def test_subjects_are_joined_apart():
    stage = join_stage()

    stage.deliver(envelope(OrderConfirmed(), id="c-1", subject="ORD-1"))
    stage.deliver(envelope(PaymentCharged(), id="p-2", subject="ORD-2"))

    assert stage.types == []


def test_events_about_nothing_in_particular_are_not_joined():
    # They would be the parts of one join, whichever stories they come from.
    stage = join_stage()

    stage.deliver(envelope(OrderConfirmed(), id="c-1", subject="", correlation_id="story-1"))
    stage.deliver(envelope(PaymentCharged(), id="p-2", subject="", correlation_id="story-2"))

    assert stage.types == []
    assert [letter.reason for letter in stage.dead_letters] == [Reason.UNREADABLE, Reason.UNREADABLE]


def test_an_event_that_is_no_part_of_the_join_does_not_complete_it():
    # A binding that an earlier version of the service left behind still brings it.
    stage = join_stage()

    stage.deliver(envelope(DriverAssigned(), id="d-1"))
    stage.deliver(CONFIRMED)
    assert stage.types == []

    stage.deliver(CHARGED)
    assert stage.types == ["driver.assigned"]


@pytest.mark.parametrize("order", [(REJECTED, CONFIRMED, CHARGED), (CONFIRMED, REJECTED, CHARGED)])
def test_a_cancelled_join_does_not_fire_and_stays_cancelled(order):
    stage = join_stage()

    for part in order:
        stage.deliver(part)
    stage.pass_time(WITHIN.total_seconds() + 1)

    assert stage.types == []
    assert stage.dead_letters == []


def test_a_cancellation_after_the_join_has_fired_changes_nothing():
    stage = join_stage()

    for part in (CONFIRMED, CHARGED, REJECTED):
        stage.deliver(part)

    assert stage.types == ["driver.assigned"]


def test_a_join_that_failed_has_its_parts_again():
    seen = []

    def assign(confirmed, charged):
        seen.append((confirmed, charged))
        if len(seen) == 1:
            raise GatewayDown
        return DriverAssigned()

    stage = join_stage(assign, retry=Retry(times=1))
    stage.deliver(CONFIRMED)
    stage.deliver(CHARGED)
    stage.pass_time(MINUTE)

    assert seen == [(OrderConfirmed(), PaymentCharged())] * 2
    assert stage.types == ["driver.assigned"]


def test_a_join_that_fails_for_good_is_buried_and_replayed_with_all_its_parts():
    seen = []

    def assign(confirmed, charged):
        seen.append((confirmed, charged))
        if len(seen) == 1:
            raise PermanentFailure("no drivers")
        return DriverAssigned()

    stage = join_stage(assign)
    stage.deliver(CONFIRMED)
    stage.deliver(CHARGED)

    (letter,) = stage.dead_letters
    assert list(letter.envelopes) == [CONFIRMED, CHARGED]

    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(0)
    assert len(seen) == 2
    assert stage.types == ["driver.assigned"]


def test_an_incomplete_join_ends_with_on_timeout():
    seen = []

    def late(confirmed, charged):
        seen.append((confirmed, charged))
        return DriverAssigned(driver_id="none")

    stage = join_stage(on_timeout=late)
    stage.deliver(CHARGED)

    stage.pass_time(WITHIN.total_seconds() - 1)
    assert seen == []

    stage.pass_time(2)
    assert seen == [(None, PaymentCharged())]
    assert stage.types == ["driver.assigned"]

    stage.deliver(CONFIRMED)
    assert stage.types == ["driver.assigned"]


def test_the_first_part_sets_the_deadline():
    seen = []
    stage = join_stage(on_timeout=lambda *_: seen.append(1))

    stage.deliver(CHARGED)
    stage.pass_time(WITHIN.total_seconds() - 1)
    stage.deliver(CHARGED)
    stage.pass_time(2)

    assert seen == [1]


def test_an_incomplete_join_without_on_timeout_ends_as_a_dead_letter():
    stage = join_stage()
    stage.deliver(CHARGED)

    stage.pass_time(WITHIN.total_seconds() + 1)

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.EXPIRED
    assert list(letter.envelopes) == [CHARGED]
    assert "payment.charged had arrived" in letter.error


def test_a_replayed_join_that_is_still_incomplete_expires_once_more():
    stage = join_stage()
    stage.deliver(CHARGED)
    stage.pass_time(WITHIN.total_seconds() + 1)
    (letter,) = stage.dead_letters

    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(0)
    assert stage.dead_letters == []

    stage.pass_time(WITHIN.total_seconds() + 1)
    assert [again.reason for again in stage.dead_letters] == [Reason.EXPIRED]


def test_a_replayed_join_is_completed_by_the_part_that_was_late():
    stage = join_stage()
    stage.deliver(CHARGED)
    stage.pass_time(WITHIN.total_seconds() + 1)
    (letter,) = stage.dead_letters

    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(0)
    stage.deliver(CONFIRMED)

    assert stage.types == ["driver.assigned"]


def test_the_deadline_leaves_a_join_alone_that_waits_for_its_next_attempt():
    calls, late = [], []

    def assign(confirmed, charged):
        calls.append(1)
        if len(calls) == 1:
            raise RetryLater(WITHIN.total_seconds() * 2)
        return DriverAssigned()

    stage = join_stage(assign, on_timeout=lambda *_: late.append(1), retry=Retry(times=1))
    stage.deliver(CONFIRMED)
    stage.deliver(CHARGED)
    stage.pass_time(WITHIN.total_seconds() + 1)
    assert (calls, late) == ([1], [])

    stage.pass_time(WITHIN.total_seconds() * 2)
    assert stage.types == ["driver.assigned"]


def test_a_timeout_that_fails_is_tried_again():
    calls = []

    def late(confirmed, charged):
        calls.append(1)
        if len(calls) == 1:
            raise GatewayDown
        return DriverAssigned()

    stage = join_stage(on_timeout=late, retry=Retry(times=1))
    stage.deliver(CHARGED)
    stage.pass_time(WITHIN.total_seconds() + 1)
    stage.pass_time(MINUTE)

    assert calls == [1, 1]
    assert stage.types == ["driver.assigned"]


def test_a_join_that_completes_while_its_timeout_waits_for_a_retry_keeps_its_own_retry():
    calls = []

    def assign(confirmed, charged):
        calls.append(1)
        if len(calls) == 1:
            raise RetryLater(5)
        return DriverAssigned()

    def late(confirmed, charged):
        raise RetryLater(30)

    stage = join_stage(assign, on_timeout=late, retry=Retry(times=3))
    stage.deliver(CHARGED)
    stage.pass_time(WITHIN.total_seconds() + 1)
    stage.deliver(CONFIRMED)
    assert calls == [1]

    for _ in range(5):
        stage.pass_time(MINUTE)
    assert stage.types == ["driver.assigned"]


def test_a_timeout_error_of_the_handler_itself_is_no_deadline():
    def late(confirmed, charged):
        raise TimeoutError("the gateway did not answer")

    stage = join_stage(on_timeout=late, retry=Retry(times=1))
    stage.deliver(CHARGED)
    stage.pass_time(WITHIN.total_seconds())
    assert stage.dead_letters == []

    stage.pass_time(MINUTE)
    (letter,) = stage.dead_letters
    assert letter.reason is Reason.EXHAUSTED


# -- the clock --------------------------------------------------------------------------------------------------


def to(queue: str) -> Message:
    return Message.carrying(envelope(ORDER), exchange="", routing_key=queue)


def test_the_clock_sends_what_is_due_and_forgets_it():
    stage = stage_of(failing(None))
    stage.store.schedule("payment.charge", Scheduled("a", to("payment.charge"), 0))
    stage.store.schedule("payment.charge", Scheduled("b", to("payment.charge"), 60))

    assert Clock(stage.app.runtime).tick() == 1

    assert [pending.message for pending in stage.pending] == [to("payment.charge")]
    assert stage.store.backlog("payment.charge").total == 1


@pytest.mark.parametrize("call", ["tend", "watch"])
def test_a_clock_whose_first_look_failed_looks_into_every_schedule_at_the_next_one(monkeypatch, call):
    stage = stage_of(failing(None))
    clock = Clock(stage.app.runtime)
    stage.store.schedule("payment.charge", Scheduled("a", to("payment.charge"), 0))
    with monkeypatch.context() as broken:
        broken.setattr(type(stage.store), call, lambda *_: (_ for _ in ()).throw(StoreError("away")))
        with pytest.raises(StoreError):
            clock.tick()

    assert clock.tick() == 1


def test_what_the_broker_did_not_take_stays_due():
    stage = stage_of(failing(None))
    stage.store.schedule("payment.charge", Scheduled("a", to("payment.charge"), 0))
    stage.publisher.fails = PublishError("the broker is down")

    with pytest.raises(PublishError):
        Clock(stage.app.runtime).tick()
    stage.publisher.fails = None
    stage.wait(MINUTE)

    assert Clock(stage.app.runtime).tick() == 1


def test_one_message_that_the_broker_refuses_does_not_hold_up_the_others(monkeypatch):
    stage = stage_of(failing(None))
    for name in ("a-gone", "b", "c"):
        stage.store.schedule("payment.charge", Scheduled(name, to(name), 0))
    taken = []

    def send(messages):
        for message in messages:
            if message.routing_key == "a-gone":
                raise PublishError("no queue of that name")
            taken.append(message.routing_key)

    monkeypatch.setattr(stage.publisher, "send", send)

    for _ in range(3):
        with pytest.raises(PublishError):
            Clock(stage.app.runtime).tick()
        stage.wait(MINUTE)

    assert set(taken) == {"b", "c"}
    assert stage.store.backlog("payment.charge").total == 1


def test_what_the_broker_took_is_not_sent_again_however_many_others_it_refuses(monkeypatch):
    stage = stage_of(failing(None))
    for name in ("a-full", "b-full", "c-full", "d"):
        stage.store.schedule("payment.charge", Scheduled(name, to(name), 0))
    taken = []

    def send(messages):
        messages = list(messages)
        confirmed = [message for message in messages if not message.routing_key.endswith("-full")]
        taken.extend(message.routing_key for message in confirmed)
        if len(confirmed) < len(messages):
            raise PublishError("these queues are full", confirmed=confirmed)

    monkeypatch.setattr(stage.publisher, "send", send)

    for _ in range(3):
        with pytest.raises(PublishError):
            Clock(stage.app.runtime).tick()
        stage.wait(MINUTE)

    assert taken == ["d"]
    assert stage.store.backlog("payment.charge").total == 3


def test_what_could_not_be_read_in_the_services_own_queue_is_told_too():
    app, sent = service("payment"), list[Message]()
    app.runtime.publisher = MemoryPublisher(lambda messages: [not sent.append(message) for message in messages])
    app.runtime.introduce()
    (letters_queue,) = [queue for queue in app.runtime.topology.queues() if queue.name == "payment.dead_letters"]

    letters_queue.park("payment.dead_letters", to("payment.dead_letters"), ValueError("garbage"))
    Clock(app.runtime).tick()

    assert [letter.reason for letter in app.dead_letters] == [Reason.UNREADABLE]
    assert sorted(message.routing_key for message in sent) == ["dead_letter.recorded", "payment.dead_letters"]


def test_a_dead_letter_handler_that_tries_to_end_the_worker_does_not():
    app = service("payment")

    @app.dead_letter
    def tell(letter) -> None:
        raise SystemExit(3)

    @app.on(OrderPlaced, retry=Retry(times=0))
    def charge(order: Envelope) -> None:
        raise GatewayDown

    stage = Stage(app)
    stage.deliver(ORDER)

    result = app.tasks["payment.dead_letters"].apply(args=[stage.dead_letters[0].id])

    assert result.state == "RETRY"
    assert len(stage.dead_letters) == 1
