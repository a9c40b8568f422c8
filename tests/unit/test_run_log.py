"""One line in the log for each run: what it says, at which level, and that it says nothing before it is so."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from choreo import PermanentFailure, Retry, RetryLater, StoreError
from choreo.delivery.run_log import counted, in_words
from choreo.logs import JsonFormatter
from choreo.store import Outcome
from choreo.store.claims import CommitResult
from choreo.store.runs import Recording
from tests.unit.events import DriverAssigned, OrderConfirmed, OrderPlaced, OrderRejected, PaymentCharged, envelope
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)


class Card(BaseModel):
    number: int


def stage_of(behave: Callable[[], Any]) -> Stage:
    app = service("payment")

    @app.on(OrderPlaced, retry=Retry(times=1))
    def charge(order: OrderPlaced):
        return behave()

    return Stage(app)


def failing(error: BaseException) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


#: Something that no log may show. Tracebacks show lines of code, so it is not written out in a function.
SECRET = "SESAME"


def refuse_card() -> None:
    Card.model_validate({"number": SECRET})


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What `celery worker --loglevel INFO` shows."""
    with caplog.at_level(logging.INFO, "choreo"):
        yield caplog


def of_runs(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in log.records if record.name in ("choreo.runs", "choreo.delivery.notice")]


def test_a_success_is_one_line_with_the_run_and_the_types_it_announced(log: pytest.LogCaptureFixture):
    stage = stage_of(lambda: [PaymentCharged(), PaymentCharged(), DriverAssigned()])

    stage.deliver(ORDER, id="e-1")

    (record,) = of_runs(log)
    assert record.levelname == "INFO"
    said, _, facts = record.getMessage().partition(" [")
    assert said.startswith("payment.charge(order.placed ORD-1): announced payment.charged (2), driver.assigned in ")
    assert facts.startswith("attempt 1 of 2, waited ")
    assert facts.endswith(", event e-1, story story-1]")


def test_the_record_has_the_run_in_fields(log: pytest.LogCaptureFixture):
    stage_of(PaymentCharged).deliver(ORDER, id="e-1")

    (record,) = of_runs(log)
    fields = json.loads(JsonFormatter().format(record))
    assert fields["message"].startswith("payment.charge(order.placed ORD-1): announced payment.charged in ")
    assert fields["message"].endswith("s"), "the facts are fields"
    assert fields["took"] >= 0
    assert fields["waited"] >= 0
    about = {
        "service": "payment",
        "handler": "payment.charge",
        "type": "order.placed",
        "subject": "ORD-1",
        "event_id": "e-1",
        "story": "story-1",
        "attempt": 1,
        "attempts": 2,
        "outcome": "done",
        "announced": ["payment.charged"],
    }
    assert about.items() <= fields.items()


@pytest.mark.parametrize("recording", [Recording(length=0), Recording(sample=0.0), Recording(sample=1e-9)])
def test_a_run_that_is_not_recorded_is_told_all_the_same(recording: Recording, log: pytest.LogCaptureFixture):
    stage = stage_of(lambda: None)
    stage.store._recording = recording

    stage.deliver(ORDER)

    assert stage.store.runs("payment.charge", "story-1") == []
    assert [record.outcome for record in of_runs(log)] == ["done"]


def test_a_retry_is_a_warning_with_the_error_in_one_line_and_when_it_is_due(log: pytest.LogCaptureFixture):
    stage = stage_of(failing(RetryLater(2, "the gateway\nis down")))

    stage.deliver(ORDER, id="e-1")

    (record,) = of_runs(log)
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(
        "payment.charge(order.placed ORD-1): attempt 1 of 2 failed, the next is in 2.0 s: "
        "RetryLater: the gateway\\nis down ["
    )
    assert (record.outcome, record.error) == ("retry", "RetryLater: the gateway\\nis down")
    assert record.due == "1970-01-01T00:16:42+00:00"
    assert "Traceback" not in log.text


def test_an_enormous_error_is_clipped_in_the_line_and_not_in_the_dead_letter(log: pytest.LogCaptureFixture):
    stage = stage_of(failing(OSError("x" * 1500)))

    for attempt in (1, 2):
        stage.deliver(ORDER, attempt=attempt)

    (letter,) = stage.dead_letters
    assert len(letter.error) > 1500
    assert all(len(record.getMessage()) < 800 for record in of_runs(log))


def test_a_dead_letter_is_an_error_with_its_id_and_the_run(log: pytest.LogCaptureFixture):
    stage = stage_of(failing(PermanentFailure("no such card")))

    stage.deliver(ORDER, id="e-1")

    (letter,) = stage.dead_letters
    (record,) = of_runs(log)
    fields = vars(record)
    assert record.levelname == "ERROR"
    assert (fields["letter"], fields["outcome"], fields["reason"]) == (letter.id, "dead letter", "refused")
    assert (fields["subject"], fields["event_id"], fields["attempt"], fields["attempts"]) == ("ORD-1", "e-1", 1, 2)
    assert fields["error"] == "PermanentFailure: no such card"
    assert "Traceback" not in log.text


def test_at_debug_a_failure_has_its_traceback_once(caplog: pytest.LogCaptureFixture):
    stage = stage_of(failing(OSError("the gateway is down")))

    for attempt in (1, 2):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "choreo"):
            stage.deliver(ORDER, attempt=attempt)

        for formatter in (logging.Formatter(), JsonFormatter()):
            assert sum(formatter.format(record).count("Traceback") for record in of_runs(caplog)) == 1


def test_what_calls_no_handler_is_for_debug(caplog: pytest.LogCaptureFixture):
    app = service("driver")

    @app.join(OrderConfirmed, PaymentCharged)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    stage = Stage(app)
    confirmed = envelope(OrderConfirmed(), id="e-1")
    with caplog.at_level(logging.DEBUG, "choreo"):
        stage.deliver(confirmed)
        stage.deliver(envelope(PaymentCharged(), id="e-2"))
        stage.deliver(confirmed)

    told = [(record.levelname, record.outcome, record.event_id) for record in of_runs(caplog)]
    assert told == [("DEBUG", "waiting", "e-1"), ("INFO", "done", "e-2"), ("DEBUG", "done before", "e-1")]
    assert of_runs(caplog)[0].getMessage().startswith("driver.assign(order.confirmed ORD-1): waiting, 1 of its events")


def test_the_end_of_a_join_is_named(log: pytest.LogCaptureFixture):
    app = service("driver")

    def give_up(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> None:
        """Nothing."""

    @app.join(OrderConfirmed, PaymentCharged, within=timedelta(seconds=5), unless=OrderRejected, on_timeout=give_up)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> None:
        """Nothing."""

    stage = Stage(app)
    stage.deliver(OrderRejected(), subject="ORD-1")
    stage.publish(OrderConfirmed(), subject="ORD-2")
    stage.advance(seconds=6)

    assert [record.outcome for record in of_runs(log)] == ["cancelled", "timed out"]
    assert ": timed out in " in of_runs(log)[1].getMessage()


@pytest.mark.parametrize("refusal", [CommitResult(Outcome.STALE), StoreError("Redis is away")])
def test_a_refused_commit_is_never_called_done(
    refusal: Any, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    stage = stage_of(PaymentCharged)
    monkeypatch.setattr("choreo.worker.outage.outlast", lambda *_: None)

    def commit(*_: Any) -> CommitResult:
        if isinstance(refusal, Exception):
            raise refusal
        return refusal

    monkeypatch.setattr(stage.store, "commit", commit)
    stage.deliver(ORDER)

    assert of_runs(log) == []
    assert {record.levelname for record in log.records} <= {"WARNING", "ERROR"}
    assert log.records, "it is told in another way"


def test_neither_event_data_nor_a_password_is_in_the_log(caplog: pytest.LogCaptureFixture):
    def fail() -> None:
        try:
            refuse_card()
        except ValidationError as error:
            raise OSError(f"redis://:hunter2@cache said {error}") from error

    stage = stage_of(fail)

    with caplog.at_level(logging.DEBUG, "choreo"):
        answers = [str(stage.deliver(ORDER, attempt=attempt).result) for attempt in (1, 2)]

    (letter,) = stage.dead_letters
    formatters = logging.Formatter(), JsonFormatter()
    logged = "".join(formatter.format(record) for formatter in formatters for record in of_runs(caplog))
    told = logged + answers[0] + letter.error
    assert "Traceback" in told
    assert SECRET not in told
    assert "hunter2" not in told
    assert SECRET in letter.traceback, "it keeps the whole event anyway"


def test_an_event_that_does_not_fit_is_told_in_one_line_without_its_data(log: pytest.LogCaptureFixture):
    stage = stage_of(lambda: None)

    stage.deliver(envelope(ORDER, data={"total_cents": SECRET}))

    (letter,) = stage.dead_letters
    assert letter.error == (
        "EnvelopeError: order.placed ORD-1 does not fit OrderPlaced: customer_id: Field required; "
        "total_cents: Input should be a valid integer, unable to parse string as an integer"
    )
    assert SECRET not in log.text


def test_text_from_anywhere_stays_on_the_line(log: pytest.LogCaptureFixture):
    stage = stage_of(lambda: None)

    stage.deliver(envelope(ORDER, id="e-1\nERROR", subject="ORD\x1b[31m", correlation_id="s\u202e"))

    assert of_runs(log)[0].getMessage().isprintable()


def test_a_handler_without_a_line_costs_no_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    stage = stage_of(lambda: None)
    stage.store._recording = Recording(length=0)
    monkeypatch.setattr("choreo.delivery.delivery.Delivery.run_of", lambda *_: pytest.fail("it was made"))

    with caplog.at_level(logging.WARNING, "choreo"):
        assert stage.deliver(ORDER).result == "done"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0 ms"), (0.0034, "3 ms"), (0.9996, "1.0 s"), (59.9, "59.9 s"), (90, "1.5 min"), (9000, "2.5 h")],
)
def test_durations_are_short(seconds: float, words: str):
    assert in_words(seconds) == words


def test_many_events_of_a_type_are_one_word():
    assert counted(["a.done", "b.done", "a.done"]) == "a.done (2), b.done"
