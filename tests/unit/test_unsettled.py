"""What goes wrong outside a handler, while nothing is recorded yet, loses no event and leaves nothing behind."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from choreo import Envelope, PermanentFailure, Reason, Retry, RetryLater, Terms
from choreo.delivery.notice import log_dead_letter
from choreo.errors import EventTooLargeError, StoreError
from choreo.events.message import MOST_NESTED
from choreo.store import Claim, Outcome, Settlement, Verdict
from choreo.worker.dead_letters import DeadLetterTask
from tests.unit.events import DriverAssigned, OrderConfirmed, OrderPlaced, PaymentCharged, envelope, identity_of
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr("choreo.worker.outage.STORE_PAUSE", 0)
    monkeypatch.setattr("choreo.worker.outage.MOST_SECONDS", 0)


def stage_of(behave, **options) -> Stage:
    app = service("payment", **options)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced):
        return behave()

    return Stage(app)


def raising(error: BaseException):
    def call(*_, **__):
        raise error

    return call


def is_given_back(result) -> bool:
    return result.state == "REJECTED" and bool(result.result.requeue)


# -- a delivery ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), OverflowError("too late"), RecursionError()])
def test_an_error_between_the_handler_and_its_commit_gives_the_event_back(monkeypatch, error):
    stage = stage_of(PaymentCharged)
    monkeypatch.setattr(stage.store, "commit", raising(error))

    assert is_given_back(stage.deliver(ORDER, id="e-1"))

    monkeypatch.undo()
    stage.wait(60)
    stage.deliver(ORDER, id="e-1")
    assert stage.types == ["payment.charged"]


def test_an_error_after_the_commit_gives_nothing_back(monkeypatch):
    stage = stage_of(PaymentCharged)
    monkeypatch.setattr(stage.publisher, "send", raising(SoftTimeLimitExceeded()))

    assert stage.deliver(ORDER, id="e-1").state == "FAILURE"

    monkeypatch.undo()
    stage.pass_time(60)
    assert stage.types == ["payment.charged"]


def test_a_store_that_fails_while_something_is_parked_keeps_it_in_its_queue(monkeypatch):
    app = service("driver")

    @app.join(OrderConfirmed, PaymentCharged)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    stage = Stage(app)
    monkeypatch.setattr(stage.store, "add_letter", raising(StoreError("no store")))
    about_nothing = envelope(OrderConfirmed(), subject="")

    assert is_given_back(stage.deliver(about_nothing))

    monkeypatch.undo()
    stage.deliver(about_nothing)
    assert [letter.reason for letter in stage.dead_letters] == [Reason.UNREADABLE]


@pytest.mark.parametrize("text", ['{"id": ', "[" * 5000 + "]" * 5000, '{"id": 7}'])
def test_what_only_the_pool_finds_to_be_unreadable_is_parked(text):
    stage = stage_of(PaymentCharged)

    result = stage.app.tasks["payment.charge"].apply(args=[text])

    assert result.state == "FAILURE"
    (letter,) = stage.dead_letters
    assert letter.reason is Reason.UNREADABLE
    assert text.encode() in letter.message.body.replace(b'\\"', b'"')


def test_a_store_that_has_forgotten_the_claim_gets_the_event_again():
    stage = stage_of(lambda: (stage.store._drawers.clear(), PaymentCharged())[1])

    assert is_given_back(stage.deliver(ORDER, id="e-1"))
    assert stage.types == []


def test_a_claim_that_nobody_has_is_lost_and_one_that_somebody_had_is_stale():
    stage = stage_of(PaymentCharged)
    first, second = (Claim("payment.charge", "e-1", token) for token in ("A", "B"))

    assert stage.store.commit(first, Settlement()).outcome is Outcome.LOST
    stage.store.begin(second)
    assert stage.store.commit(first, Settlement()).outcome is Outcome.STALE
    stage.store.commit(second, Settlement(done=False))
    assert stage.store.commit(first, Settlement()).outcome is Outcome.STALE


def test_an_attempt_is_remembered_while_its_retry_is_away_however_long_that_is():
    terms = Terms(retention=timedelta(minutes=5))
    app = service("payment", terms=terms)
    calls = []

    @app.on(OrderPlaced, retry=Retry(times=1, cap=60))
    def charge(order: Envelope):
        calls.append(1)
        raise RetryLater(3600)

    stage = Stage(app)
    stage.deliver(ORDER, id="e-1")
    stage.wait(1800)
    stage.deliver(ORDER, id="e-1")

    assert calls == [1]


def test_data_that_is_nested_too_deeply_is_refused_where_it_is_announced():
    stage = stage_of(PaymentCharged)
    deep: list = []
    for _ in range(MOST_NESTED + 1):
        deep = [deep]

    for much in (deep, [deep] * 3):
        with pytest.raises(EventTooLargeError, match=rf"nested more than {MOST_NESTED} times"):
            stage.publisher.announce([replace(envelope(ORDER), data={"x": much})])
    wide = [[]] * (2 * MOST_NESTED)
    stage.publisher.announce([replace(envelope(ORDER), data={"x": wide})])


# -- a signal to a join -------------------------------------------------------------------------------------------


def test_a_deadline_that_comes_again_after_its_retry_is_recorded_runs_nothing():
    runs = []

    def late(confirmed: OrderConfirmed | None, charged: PaymentCharged | None):
        runs.append(1)
        raise ValueError

    app = service("driver")

    @app.join(OrderConfirmed, PaymentCharged, within=timedelta(minutes=1), on_timeout=late, retry=Retry(times=1))
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    stage = Stage(app)
    stage.deliver(envelope(OrderConfirmed(), subject="ORD-1"))
    stage.wait(61)
    [(key, _)] = stage.store.due("driver.assign", 10, 5)
    due_signal = stage.clock.deadline_signal("driver.assign", key, stage.store.now())

    for _ in range(3):
        stage.deliver(Envelope.from_wire(json.loads(due_signal.body)[0][0]))

    assert runs == [1]
    stage.store.sent("driver.assign", [key])
    stage.pass_time(120)
    assert runs == [1, 1]


def test_a_key_that_is_joined_again_later_announces_another_fact():
    app = service("driver", terms=Terms(retention=timedelta(minutes=5)))

    @app.join(OrderConfirmed, PaymentCharged, within=timedelta(minutes=1))
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    stage = Stage(app)
    for story in ("monday", "friday"):
        stage.deliver(envelope(OrderConfirmed(), id=f"o-{story}", subject="alice"))
        stage.deliver(envelope(PaymentCharged(), id=f"p-{story}", subject="alice"))
        stage.wait(3600)

    first, second = stage.events
    assert first.id != second.id


# -- what a stop or another version leaves ------------------------------------------------------------------------


def test_a_handler_that_a_stop_ended_was_not_begun_in_vain():
    stage = stage_of(PaymentCharged, terms=Terms(max_deliveries=2))
    for token in ("first", "second", "third", "fourth"):
        claim = Claim("payment.charge", "e-1", token)
        assert stage.store.begin(claim).verdict is Verdict.RUN
        stage.store.forgive(claim)
        stage.wait(60)

    stage.deliver(ORDER, id="e-1")

    assert stage.types == ["payment.charged"]


def test_asking_again_for_an_answer_that_got_lost_is_one_beginning():
    stage = stage_of(PaymentCharged, terms=Terms(max_deliveries=2))
    claim = Claim("payment.charge", "e-1", "A")

    assert [stage.store.begin(claim).verdict for _ in range(5)] == [Verdict.RUN] * 5


def test_what_a_handler_announced_for_later_leaves_though_its_code_is_gone():
    stage = stage_of(lambda: stage.app.publish(PaymentCharged(), delay=60) and None)
    stage.deliver(ORDER)

    renamed = Stage(service("payment"))
    renamed.store = renamed.app.runtime.store = stage.store
    stage.wait(61)
    renamed.clock.tick()

    assert renamed.types == ["payment.charged"]


# -- the dead-letter handler --------------------------------------------------------------------------------------


def told_stage(listener) -> tuple[Stage, DeadLetterTask]:
    app = service("payment", terms=Terms(max_deliveries=2))
    app.dead_letter(listener)

    @app.on(OrderPlaced, retry=Retry(times=0))
    def charge(order: Envelope) -> None:
        raise ValueError

    stage = Stage(app)
    stage.deliver(ORDER)
    return stage, app.tasks["payment.dead_letters"]


def test_a_dead_letter_is_told_once_however_often_the_notice_comes():
    told = []
    stage, task = told_stage(lambda letter: told.append(letter.id))
    (letter,) = stage.dead_letters

    results = [task.apply(args=[letter.id]).result for _ in range(3)]

    assert told == [letter.id]
    assert results[1:] == ["told before", "told before"]


def test_a_dead_letter_handler_that_kills_its_worker_is_not_called_for_ever(caplog):
    told = []
    stage, task = told_stage(lambda letter: told.append(letter.id))
    (letter,) = stage.dead_letters
    for worker in ("first", "second"):
        stage.store.begin(Claim(task.name, f"notice:{letter.id}", worker))
        stage.wait(60)

    assert task.apply(args=[letter.id]).result == "told before"

    assert told == []
    assert "ended its worker too often" in caplog.text
    assert stage.dead_letters == [letter]


def test_a_notice_that_another_worker_has_in_hand_waits_for_it():
    told = []
    stage, task = told_stage(lambda letter: told.append(letter.id))
    (letter,) = stage.dead_letters
    stage.store.begin(Claim(task.name, f"notice:{letter.id}", "other"))

    assert "another worker has its claim" in task.apply(args=[letter.id]).result
    assert told == []
    stage.wait(60)
    stage.clock.tick()
    assert stage.pending[-1].handler == task.name


def test_a_store_that_is_away_keeps_the_notice_in_its_queue(monkeypatch):
    stage, task = told_stage(log_dead_letter)
    (letter,) = stage.dead_letters
    monkeypatch.setattr(stage.store, "begin", raising(StoreError("no store")))

    assert is_given_back(task.apply(args=[letter.id]))


# -- a store that blinks, and a worker that is late ---------------------------------------------------------------


def test_a_store_that_blinks_after_the_handler_succeeded_is_no_failure_of_the_handler(monkeypatch):
    app = service("payment")

    @app.on(OrderPlaced, retry=Retry(times=0))
    def charge(order: OrderPlaced) -> PaymentCharged:
        app.publish(PaymentCharged(), at=datetime(2030, 1, 1, tzinfo=UTC))
        return PaymentCharged()

    stage = Stage(app)
    monkeypatch.setattr(stage.store, "now", raising(StoreError("it blinks")))

    assert is_given_back(stage.deliver(ORDER, id="e-1"))

    assert stage.dead_letters == []


def test_a_worker_that_is_too_late_reports_no_dead_letter():
    def lose_the_claim():
        stage.wait(60)
        stage.store.begin(Claim("payment.charge", identity_of("e-1"), "another worker"))
        raise PermanentFailure("no such card")

    stage = stage_of(lose_the_claim)

    result = stage.deliver(ORDER, id="e-1")

    assert (result.state, result.result) == ("SUCCESS", "too late: another worker has taken over")
    assert stage.dead_letters == []
