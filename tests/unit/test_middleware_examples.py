"""The examples of docs/middleware.md, run as they are printed there."""

import logging
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import choreo
from choreo import Reason
from tests.unit.stage import Stage, service

PAGE = Path(choreo.__file__).parents[1] / "docs" / "middleware.md"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the Python block under a heading, and returns its names. Its services need no broker."""
    monkeypatch.setattr(choreo, "Service", service)
    monkeypatch.chdir(tmp_path)

    def run(heading: str) -> dict[str, Any]:
        sections = dict(re.findall(r"^#+ (.*?)\n(.*?)(?=^#+ |\Z)", PAGE.read_text(), re.M | re.S))
        (block,) = re.findall(r"^```python\n(.*?)^```", sections[heading], re.M | re.S)
        names: dict[str, Any] = {"__name__": "middleware_example"}
        exec(compile(block, f"{PAGE.name}: {heading}", "exec"), names)
        return names

    return run


def test_every_python_block_of_the_page_is_an_example_of_these_tests():
    assert PAGE.read_text().count("```python\n") == 4


def test_a_delivery_passes_the_middleware_from_the_outside_in(example: Any, capsys: pytest.CaptureFixture[str]):
    names = example("Middleware")

    Stage(names["app"]).deliver(names["OrderPlaced"](total_cents=500))

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "payment.charge begins, attempt 1"
    assert lines[1] == "charging 500 cents"
    assert re.fullmatch(r"0 event\(s\) in 0\.\d{3} s", lines[2])
    assert lines[3] == "payment.charge ends"


# -- ids in every line of the log ---------------------------------------------------------------------------------


def test_each_line_of_a_handler_has_the_ids_of_its_event(example: Any, caplog: pytest.LogCaptureFixture):
    names = example("Ids in every line of the log")
    stage, order = Stage(names["app"]), names["OrderPlaced"](total_cents=500)
    root = logging.Logger("root")
    root.addHandler(logging.StreamHandler())
    names["add_ids"](logger=root, loglevel=logging.WARNING)
    (handler,) = root.handlers
    lines: list[str] = []
    handler.emit = lambda record: lines.append(handler.format(record))
    names["logger"].addHandler(handler)

    try:
        stage.deliver(order, subject="ORD-1", id="e-1")
        stage.deliver(order, subject="ORD-2", id="e-2", correlation_id="story-2")
        names["logger"].warning("idle")
    finally:
        names["logger"].removeHandler(handler)

    assert lines == [
        "WARNING payment.charge ORD-1 story-1: charging 500 cents",
        "WARNING payment.charge ORD-2 story-2: charging 500 cents",
        "WARNING - - -: idle",
    ]


def test_the_worker_puts_the_ids_into_its_log(example: Any):
    from celery.signals import after_setup_logger

    names = example("Ids in every line of the log")

    assert names["add_ids"] in after_setup_logger._live_receivers(None)


# -- a database session per event -------------------------------------------------------------------------------


def charges() -> list[int]:
    with closing(sqlite3.connect("payment.db")) as connection:
        return [cents for (cents,) in connection.execute("SELECT cents FROM charges ORDER BY cents")]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Every connection that is opened."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args: opened.append(connect(*args)) or opened[-1])
    return opened


def test_a_success_commits_its_session(example: Any):
    names = example("A database session per event")
    stage = Stage(names["app"])

    stage.deliver(names["OrderPlaced"](total_cents=500))

    assert charges() == [500]
    assert stage.types == ["payment.charged"]


def test_an_error_rolls_its_session_back(example: Any):
    names = example("A database session per event")
    stage = Stage(names["app"])

    assert stage.deliver(names["OrderPlaced"](total_cents=200_000)).state == "RETRY"

    assert charges() == []
    assert stage.types == []


def test_each_attempt_has_a_session_of_its_own_which_is_closed(example: Any, connections: list[sqlite3.Connection]):
    names = example("A database session per event")
    stage = Stage(names["app"])
    connections.clear()

    stage.deliver(names["OrderPlaced"](total_cents=200_000), id="e-1")
    stage.pass_time(60)

    assert len(connections) == 6, "one for each attempt"
    for connection in connections:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
    with pytest.raises(LookupError):
        names["session"].get()


def test_a_repetition_after_a_crash_changes_the_database_once(example: Any):
    names = example("A database session per event")
    order = names["OrderPlaced"](total_cents=500)

    # The store of the second stage remembers nothing: as after a crash between the two commits.
    for _ in range(2):
        Stage(names["app"]).deliver(order, id="e-1")

    assert charges() == [500]


# -- no work outside business hours -------------------------------------------------------------------------------


@pytest.fixture
def office(example: Any) -> Any:
    names = example("No work outside business hours")

    def deliver(when: str, **options: Any) -> Any:
        moment = datetime.fromisoformat(when).replace(tzinfo=names["HERE"]).astimezone(UTC)
        stage = Stage(names["app"], start=moment)
        return stage, stage.deliver(names["OrderPlaced"](total_cents=500), **options)

    return deliver


@pytest.mark.parametrize("when", ["2026-01-07T09:00", "2026-01-07T12:00", "2026-01-07T16:59:59"])
def test_an_open_office_works(office: Any, when: str):
    _, result = office(when)

    assert result.state == "SUCCESS"


@pytest.mark.parametrize(
    ("when", "hours"),
    [
        pytest.param("2026-01-07T08:00", 1, id="before it opens"),
        pytest.param("2026-01-07T17:00", 16, id="after it closed"),
        pytest.param("2026-01-09T18:00", 63, id="on a Friday evening"),
        pytest.param("2026-01-10T10:00", 47, id="on a Saturday"),
        pytest.param("2026-03-27T17:00", 63, id="before the weekend on which the clocks change"),
    ],
)
def test_a_closed_office_puts_the_event_off_until_it_opens(office: Any, when: str, hours: int):
    stage, result = office(when)

    assert result.state == "RETRY"
    assert stage.pass_time(hours * 3600 - 60) == []
    assert [made.error for made in stage.pass_time(120)] == [None]


def test_the_last_attempt_in_a_closed_office_ends_as_a_dead_letter(office: Any):
    stage, _ = office("2026-01-10T10:00", attempt=9)

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.EXHAUSTED
    assert letter.error == "RetryLater: closed until Monday 09:00"
