"""Errors of handlers, as they are logged, kept and raised again: bounded, in one line, and true."""

import logging
import pickle
from typing import Any

import billiard.common
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject
from celery.exceptions import Retry as CeleryRetry

from choreo import Envelope, PermanentFailure, Reason, Retry, RetryLater
from choreo.delivery.ending import Ending
from choreo.delivery.failure import MOST_TEXT, MOST_TRACE, harmless, line_of, trace_of
from choreo.errors import HandlerCrashed
from choreo.store.claims import LastEnd
from tests.unit.events import OrderPlaced
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice")
HUGE = 2_000_000


def stage_of(error: BaseException, **options: Any) -> Stage:
    app = service("payment")

    @app.on(OrderPlaced, **options)
    def charge(order: Envelope) -> None:
        raise error

    return Stage(app)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def noted(error: BaseException, note: str) -> BaseException:
    error.add_note(note)
    return error


ENORMOUS = {
    "its own text": ValueError("x" * HUGE),
    "lines": ValueError("line\n" * (HUGE // 5)),
    "permanent": PermanentFailure("x" * HUGE),
    "later": RetryLater(0, "x" * HUGE),
    "cause": caused(ValueError("short"), KeyError("x" * HUGE)),
    "note": noted(ValueError("short"), "x" * HUGE),
    "group": ExceptionGroup("several", [ValueError("x" * HUGE), ValueError("short")]),
    "exit": SystemExit("x" * HUGE),
}


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("kind", ENORMOUS)
def test_an_enormous_error_is_neither_logged_nor_stored_whole(kind: str, retries: int, caplog: Any):
    stage = stage_of(ENORMOUS[kind], retry=Retry(times=retries))

    with caplog.at_level(logging.DEBUG):
        results = [stage.deliver(ORDER, id="e-1", attempt=attempt + 1) for attempt in range(retries + 1)]

    (letter,) = stage.dead_letters
    assert len(letter.to_json()) < 4 * MOST_TRACE
    assert sum(len(logging.Formatter().format(record)) for record in caplog.records) < 4 * MOST_TRACE
    for result in results:  # what the pool's child sends to its parent
        assert len(pickle.dumps(result.result)) < 4 * MOST_TRACE
        assert len(result.traceback or "") < 4 * MOST_TRACE


def test_a_text_that_was_cut_says_how_long_it_was():
    line = line_of(ValueError("x" * HUGE))

    assert len(line) < MOST_TEXT + 100
    assert line.startswith("ValueError: xxx")
    assert line.endswith("... (cut, 2,000,012 characters in all)")
    trace = trace_of(ValueError("x" * HUGE))
    assert "characters left out" in trace
    assert len(trace) < MOST_TRACE + 100


def test_an_ordinary_error_is_raised_as_it_is():
    error = ValueError("no such card")

    assert harmless(error) is error
    assert isinstance(harmless(MemoryError()), HandlerCrashed)


@pytest.mark.parametrize(
    "error", [Reject("no", requeue=False), Reject("no", requeue=True), Ignore(), CeleryRetry("later")]
)
def test_celerys_words_to_the_worker_are_failures_of_a_handler(error: Exception):
    stage = stage_of(error, retry=Retry(times=0))

    result = stage.deliver(ORDER)

    assert (result.state, type(result.result)) == ("FAILURE", HandlerCrashed)
    assert [letter.reason for letter in stage.dead_letters] == [Reason.EXHAUSTED]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SystemExit(3), "SystemExit: the handler called sys.exit(3)"),
        (SystemExit(), "SystemExit: the handler called sys.exit()"),
        (SystemExit("bye"), "SystemExit: the handler called sys.exit('bye')"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_a_handler_that_exits_is_named_as_the_one_that_exits(error: BaseException, line: str):
    stage = stage_of(error, retry=Retry(times=0))

    stage.deliver(ORDER)

    assert [letter.error for letter in stage.dead_letters] == [line]


@pytest.mark.parametrize(
    ("limits", "pool", "line"),
    [
        ({"soft_time_limit": 3, "time_limit": 9}, None, "the soft time limit of 3 s was exceeded"),
        ({}, 2.5, "the soft time limit of 2.5 s was exceeded"),
        ({}, None, "signal SIGUSR1 interrupted the handler"),
    ],
)
def test_a_soft_time_limit_says_how_long_it_is(limits: Any, pool: float | None, line: str):
    stage = stage_of(SoftTimeLimitExceeded(), retry=Retry(times=0), **limits)
    stage.app.runtime.pool_soft_time_limit = pool

    stage.deliver(ORDER)

    assert [letter.error for letter in stage.dead_letters] == [f"SoftTimeLimitExceeded: {line}"]


def test_a_signal_that_ends_the_process_is_no_failure_of_the_handler(monkeypatch: pytest.MonkeyPatch):
    stage = stage_of(ValueError("the connection was closed meanwhile"), retry=Retry(times=0))
    monkeypatch.setattr(billiard.common, "_should_have_exited", [True])

    result = stage.deliver(ORDER, id="e-1")

    assert (result.state, result.result.requeue) == ("REJECTED", True)
    assert stage.dead_letters == []
    monkeypatch.undo()
    stage.wait(60)
    stage.deliver(ORDER, id="e-1")
    assert [letter.reason for letter in stage.dead_letters] == [Reason.EXHAUSTED]


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        ("", None),
        ("an unknown text", None),
        ("kitchen-7-0123456789abcdef0123456789abcdef", "process 7 on kitchen ended, of which nothing more is known"),
        (
            "_choreo.inflight.my-host.local-42-0123456789ab-1-15000",
            "process 42 on my-host.local ended, of which nothing more is known",
        ),
    ],
)
def test_the_process_of_a_beginning_of_which_nothing_was_noted_is_named_if_it_is_known(holder: str, text: str | None):
    ending = Ending.of(LastEnd("", holder))

    assert (ending and ending.text) == text


def test_the_exit_code_of_a_pool_for_a_signal_is_told_in_words():
    assert line_of(SystemExit(-241)) == "SystemExit: SIGTERM told the process of the pool to end: exit code -241"
    assert line_of(SystemExit(-3)) == "SystemExit: the handler called sys.exit(-3)"
