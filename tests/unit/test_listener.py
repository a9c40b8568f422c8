"""The dead-letter handler of a service: what it announces, how often it is called, and what is logged beside it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import billiard.common
import pytest

from choreo import DeadLetter, Event, PermanentFailure, Reason, Retry
from choreo.delivery.ending import End, Ending
from choreo.delivery.listener import RETRY
from choreo.delivery.notice import park
from choreo.errors import EnvelopeError
from choreo.events.message import Message
from choreo.store import Claim, Verdict
from tests.unit.events import OrderPlaced, PaymentFailed, envelope
from tests.unit.stage import Stage, service

ORDER = envelope(OrderPlaced(customer_id="alice"), id="e-1", subject="ORD-1")


class OperatorCalled(Event):
    """An operator was told."""


def stage_of(listener: Any) -> Stage:
    app = service("payment", retry=Retry(times=0))

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        raise PermanentFailure("no such card")

    if listener is not None:
        app.dead_letter(listener)
    return Stage(app)


def test_what_it_returns_and_publishes_continues_the_story_of_the_event_that_failed():
    def tell(letter: DeadLetter) -> PaymentFailed:
        stage.app.publish(OperatorCalled())
        return PaymentFailed(reason=letter.error)

    stage = stage_of(tell)
    stage.publish(ORDER)
    stage.run()

    called, failed = stage.told_by_services[1:]
    assert (called.type, failed.type) == ("operator.called", "payment.failed")
    assert failed.data == {"reason": "PermanentFailure: no such card"}
    for event in (called, failed):
        assert (event.correlation_id, event.causation_id, event.subject) == ("story-1", "e-1", "ORD-1")
        assert event.source == "payment"
    assert len(stage.dead_letters) == 1


def test_one_that_raises_is_called_again_and_announces_once():
    calls: list[str] = []

    def tell(letter: DeadLetter) -> PaymentFailed:
        calls.append(letter.id)
        stage.app.publish(OperatorCalled())
        if len(calls) < 3:
            raise ConnectionError("the pager is away")
        return PaymentFailed()

    stage = stage_of(tell)
    stage.publish(ORDER)
    stage.run()
    assert len(calls) == 1
    stage.advance(minutes=10)

    assert len(calls) == 3
    assert stage.types == ["order.placed", "operator.called", "payment.failed"]
    assert len(stage.dead_letters) == 1


@pytest.mark.parametrize("error", [ValueError("for ever"), SystemExit(3)])
def test_one_that_always_raises_is_given_up_and_the_letter_stays(error: BaseException):
    calls: list[str] = []

    def tell(letter: DeadLetter) -> None:
        calls.append(letter.id)
        raise error

    stage = stage_of(tell)
    stage.publish(ORDER)
    stage.run()
    stage.advance(days=2)

    assert len(calls) == RETRY.attempts
    (letter,) = stage.dead_letters
    assert letter.reason is Reason.REFUSED


def test_one_that_returns_no_event_is_not_called_again():
    calls: list[str] = []

    def tell(letter: DeadLetter) -> dict[str, str]:
        calls.append(letter.id)
        return {"told": letter.id}

    stage = stage_of(tell)
    stage.publish(ORDER)
    stage.run()
    stage.advance(days=2)

    assert len(calls) == 1
    assert len(stage.dead_letters) == 1


def test_the_story_of_a_letter_without_an_event_is_the_letters_own():
    stage = stage_of(lambda _: OperatorCalled())
    park(stage.app.runtime, "payment.charge", Message("", "payment.charge", b"garbage"), EnvelopeError("no JSON"))

    stage.run()

    (letter,), (called,) = stage.dead_letters, stage.told_by_services
    assert (called.correlation_id, called.subject) == (letter.id, "")


def test_a_notice_keeps_its_task_id_and_counts_its_attempts():
    def tell(letter: DeadLetter) -> None:
        raise ValueError

    stage = stage_of(tell)
    stage.publish(ORDER)
    stage.run()
    (first,) = [made for made in stage.deliveries if made.handler == "payment.dead_letters"]
    stage.advance(seconds=1)

    again = [made for made in stage.deliveries if made.handler == "payment.dead_letters"]
    assert [made.attempt for made in again[:2]] == [1, 2]
    assert first.outcome == "told of the dead letter, and failed: ValueError"


@pytest.mark.parametrize("listener", [None, lambda _: None])
def test_each_dead_letter_is_logged_once_with_its_handler_subject_and_id(listener: Any, caplog: Any):
    stage = stage_of(listener)
    stage.publish(ORDER)

    with caplog.at_level(logging.ERROR, "choreo"):
        stage.run()

    (letter,) = stage.dead_letters
    (record,) = [record for record in caplog.records if record.name == "choreo.delivery.notice"]
    assert record.getMessage() == (
        f"dead letter {letter.id}: payment.charge could not handle order.placed ORD-1 "
        f"(refused: PermanentFailure: no such card)."
    )
    assert f"`choreo dead-letters show {letter.id}` shows all of it." in caplog.text


def test_the_record_has_the_error_for_error_trackers_and_the_log_has_no_traceback(caplog: Any):
    stage = stage_of(None)
    stage.publish(ORDER)

    with caplog.at_level(logging.ERROR, "choreo"):
        stage.run()

    (record,) = [record for record in caplog.records if record.name == "choreo.delivery.notice"]
    assert record.exc_info[0] is PermanentFailure
    assert record.exc_info[2] is not None
    assert "payment.charge" in record.msg
    assert "Traceback" not in logging.Formatter().format(record)


def test_a_listener_whose_process_was_terminated_is_not_called_again():
    stage = stage_of(lambda _: pytest.fail("called"))
    stage.deliver(ORDER)
    (letter,) = stage.dead_letters
    unit = f"notice:{letter.id}"
    assert stage.store.begin(Claim("payment.dead_letters", unit, "killed")).verdict is Verdict.RUN
    stage.store.record_end("payment.dead_letters", unit, Ending(End.TERMINATED, "it was ended").to_text())
    stage.wait(60)

    assert stage.app.tasks["payment.dead_letters"].apply(args=[letter.id]).result == "given up: it was ended"

    assert stage.dead_letters == [letter]


class Operators:
    """Objects that can be called, in two ways."""

    def __call__(self, letter: DeadLetter, session: Any = None) -> OperatorCalled:
        assert (letter.handler, session) == ("payment.charge", None)
        return OperatorCalled()

    async def later(self, letter: DeadLetter) -> OperatorCalled:
        assert letter.handler == "payment.charge"
        await asyncio.sleep(0)
        return OperatorCalled()


class Later:
    async def __call__(self, letter: DeadLetter) -> AsyncIterator[OperatorCalled]:
        assert letter.handler == "payment.charge"
        await asyncio.sleep(0)
        yield OperatorCalled()


@pytest.mark.parametrize("listener", [Operators(), Operators().__call__, partial(Operators(), session=None)])
def test_an_object_a_method_and_a_partial_can_be_listeners(listener: Any):
    stage = stage_of(listener)
    stage.publish(ORDER)
    stage.run()

    assert stage.types == ["order.placed", "operator.called"]


@pytest.mark.parametrize("listener", [Operators().later, partial(Operators().later), Later()])
def test_an_async_listener_is_awaited_and_may_announce(listener: Any):
    stage = stage_of(listener)
    stage.publish(ORDER)
    stage.run()

    assert stage.types == ["order.placed", "operator.called"]


def test_a_signal_that_ends_the_process_of_a_listener_loses_no_notice(monkeypatch: pytest.MonkeyPatch):
    def tell(letter: DeadLetter) -> None:
        monkeypatch.setattr(billiard.common, "_should_have_exited", [True])
        raise ValueError(f"the connection was closed while {letter.id} was told")

    stage = stage_of(tell)
    stage.deliver(ORDER)
    (letter,) = stage.dead_letters

    result = stage.app.tasks["payment.dead_letters"].apply(args=[letter.id])

    assert (result.state, result.result.requeue) == ("REJECTED", True)
