"""What a delivery records of its run: the event, the outcome and what it announced. In made-up time."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from choreo import PermanentFailure, Retry
from choreo.store.runs import Recording, Result, Run, entries, from_text, needle_of_subject, plain_entry
from tests.unit.events import (
    NOON,
    DriverAssigned,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PaymentCharged,
    PaymentFailed,
    envelope,
)
from tests.unit.stage import Stage, service

PLACED = envelope(OrderPlaced(customer_id="alice"), id="story-1")
CONFIRMED = envelope(OrderConfirmed(), id="c-1")
CHARGED = envelope(PaymentCharged(), id="p-1")
HANDLER = "payment.charge"
JOIN = "driver.assign"


def charging(react, **options) -> Stage:
    app = service("payment")

    @app.on(OrderPlaced, **options)
    def charge(order: OrderPlaced) -> PaymentCharged | PaymentFailed | None:
        return react()

    stage = Stage(app, start=NOON)
    app.runtime.node = "payment@payment.host"
    return stage


def refused() -> None:
    raise PermanentFailure("the card\nhas expired")


def runs(stage: Stage, handler: str = HANDLER, story: str = "story-1") -> list[Run]:
    return stage.store.runs(handler, story)


def test_a_success_is_recorded_with_what_it_announced():
    stage = charging(PaymentCharged)
    stage.wait(2.5)
    stage.deliver(PLACED)

    (run,) = runs(stage)
    (announced,) = stage.events

    assert (run.event, run.story, run.subject, run.type) == ("story-1", "story-1", "ORD-1", "order.placed")
    assert (run.handler, run.worker, run.attempt, run.result) == (HANDLER, "payment@payment.host", 1, Result.DONE)
    assert run.announced == [("payment.charged", announced.id)]
    assert run.waited == 2.5
    assert 0 <= run.took < 60
    assert run.detail == ""
    assert stage.store.stories(HANDLER, "ORD-1") == ["story-1"]


def test_an_event_that_was_handled_before_is_not_recorded_again():
    stage = charging(PaymentCharged)
    stage.deliver(PLACED)
    stage.deliver(PLACED)

    assert len(runs(stage)) == 1


def test_a_failed_attempt_is_recorded_with_its_error():
    errors = [ConnectionError("no answer"), None]

    def react():
        if error := errors.pop(0):
            raise error

    stage = charging(react, retry=Retry(times=2, first=1.0))
    stage.deliver(PLACED)
    stage.deliver(PLACED, attempt=2)

    first, second = runs(stage)

    assert (first.result, first.attempt, first.detail) == (Result.RETRY, 1, "ConnectionError: no answer")
    assert (second.result, second.attempt, second.detail) == (Result.DONE, 2, "")


def test_a_dead_letter_is_recorded_with_its_id_and_its_error():
    stage = charging(refused)
    stage.deliver(PLACED)

    (run,) = runs(stage)
    (letter,) = stage.app.dead_letters

    assert run.result is Result.DEAD
    assert run.detail == f"{letter.id} PermanentFailure: the card\\nhas expired"


def joining() -> Stage:
    app = service("driver")

    def give_up(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> OrderRejected:
        return OrderRejected()

    @app.join(OrderConfirmed, PaymentCharged, within=timedelta(minutes=30), unless=PaymentFailed, on_timeout=give_up)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    return Stage(app, start=NOON)


def test_a_join_is_recorded_once_with_its_parts():
    stage = joining()
    stage.deliver(CONFIRMED)
    stage.deliver(CHARGED)

    (run,) = runs(stage, JOIN)

    assert (run.event, run.type, run.result) == ("p-1", "payment.charged", Result.DONE)
    assert run.parts == [("order.confirmed", "c-1"), ("payment.charged", "p-1")]
    assert [kind for kind, _ in run.announced] == ["driver.assigned"]


def test_the_run_of_a_join_is_found_by_the_story_of_each_part():
    stage = joining()
    stage.deliver(envelope(OrderConfirmed(), id="c-1", correlation_id="story-2"))
    stage.deliver(CHARGED)

    assert [run.event for run in runs(stage, JOIN, "story-1")] == ["p-1"]
    assert [run.event for run in runs(stage, JOIN, "story-2")] == ["p-1"]


def test_a_cancellation_of_a_join_is_recorded():
    stage = joining()
    stage.deliver(CONFIRMED)
    stage.deliver(envelope(PaymentFailed(), id="f-1"))

    (run,) = runs(stage, JOIN)

    assert (run.event, run.type, run.result) == ("f-1", "payment.failed", Result.CANCELLED)
    assert run.parts == [("order.confirmed", "c-1")]


def test_the_deadline_of_a_join_is_recorded_in_the_story_of_its_parts():
    stage = joining()
    stage.deliver(CONFIRMED)
    stage.advance(minutes=31)

    (run,) = runs(stage, JOIN)

    assert (run.event, run.result) == ("c-1", Result.TIMED_OUT)
    assert [kind for kind, _ in run.announced] == ["order.rejected"]


def test_a_join_that_is_run_or_cancelled_by_hand_says_so():
    stage = joining()
    stage.deliver(CONFIRMED)
    stage.deliver(envelope(OrderConfirmed(), id="c-2", subject="ORD-2", correlation_id="story-2"))
    stage.app.joins.fire("ORD-1", as_timeout=True)
    stage.app.joins.cancel("ORD-2", "a test\norder")
    stage.advance(seconds=1)

    (cancelled,) = runs(stage, JOIN, "story-2")

    assert [run.result for run in runs(stage, JOIN)] == [Result.TIMED_OUT]
    assert (cancelled.result, cancelled.detail) == (Result.CANCELLED_BY_HAND, "a test\\norder")


@pytest.mark.parametrize("recording", [Recording(length=0), Recording(sample=0.0)])
def test_nothing_is_recorded_if_the_settings_say_so(recording):
    stage = charging(refused)
    stage.store._recording = recording
    stage.deliver(PLACED)

    assert runs(stage) == []
    assert len(list(stage.app.dead_letters)) == 1


def test_a_reason_that_is_no_utf_8_is_recorded_all_the_same():
    # The argument of a command can hold half a surrogate pair.
    run = Run("e-1", "e-1", "ORD-1", "order.placed", 1, Result.CANCELLED_BY_HAND, detail="caf\udce9")

    ((_, text),) = entries(run)
    text.encode()

    assert from_text(HANDLER, 1.0, text).detail == "caf\udce9"


@pytest.mark.parametrize(
    "subject", ["ORD-1", "", 'a "quoted" \\ one', "tab\tand line\n", "\x00\x1f\x7f", "Müller", "\ud800", "x" * 300]
)
@pytest.mark.parametrize("event_id", ["story-1", 'an "id"', "0190a1e2-7d2e-7a43-8c52-1f0f5e3f9a11"])
@pytest.mark.parametrize("announced", [[], [CONFIRMED, CHARGED]], ids=["nothing", "two events"])
def test_the_short_way_to_an_entry_writes_the_same_as_the_long_one(subject: str, event_id: str, announced: list):
    event = replace(PLACED, id=event_id, subject=subject)
    names = [(one.type, one.id) for one in announced]
    about = {"event": event.id, "story": event.correlation_id, "subject": subject, "type": event.type}
    run = Run(**about, attempt=2, result=Result.DONE, waited=1.5, took=0.25, handler=HANDLER, announced=names)
    # A detail makes `entries` take the long way.
    ((name, text),) = entries(replace(run, detail="why"))

    entry = plain_entry(event, 2, Result.DONE, 1.5, 0.25, HANDLER, "", names)

    assert [json.loads(entry[1])] == [json.loads(text)[:-2]] if entry else not text.isascii() or "\\ud8" in text
    assert entries(run)[0][0] == name
    assert json.loads(entries(run)[0][1]) == json.loads(text)[:-2]
    assert entry in (None, entries(run)[0])
    assert needle_of_subject(subject) in entries(run)[0][1]
