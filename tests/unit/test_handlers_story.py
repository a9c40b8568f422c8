"""How the demo words what it hears, and that it notices when the story is not true."""

import io
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from choreo import Envelope
from handlers import analytics, driver, loyalty, notification, order, payment, restaurant
from handlers.story import performance, table
from handlers.story.observer import Observer, Run
from handlers.story.paper import COLOURS, Paper
from handlers.story.stage import SERVICES, Order, Stage, StoryError

SUBSCRIPTIONS = {each.name: each for service in SERVICES for each in service.subscriptions}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHOREO_DATA", str(tmp_path))
    return tmp_path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# -- paper -----------------------------------------------------------------------------------------------------------


def test_no_line_is_wider_than_80_columns_whatever_it_says() -> None:
    output = io.StringIO()
    paper = Paper(output)

    paper.prose("word " * 60)
    paper.prose("x" * 200)
    paper.heading("y" * 200)
    paper.happening(1234.5, "notification", "order.confirmed_by_restaurant -> " + "z" * 80, aside="frank")
    paper.verbatim(["v" * 200])
    paper.quote("alice", "word " * 60)
    paper.table([("order", "word " * 60)])

    assert max(map(len, output.getvalue().splitlines())) <= 80


def test_an_aside_ends_at_the_right_edge_and_goes_where_there_is_no_room() -> None:
    output = io.StringIO()
    paper = Paper(output)

    paper.happening(0.0, "order", "a customer -> order.placed", aside="eve")
    paper.happening(0.0, "order", "x" * 58, aside="eve")

    first, second = output.getvalue().splitlines()
    assert len(first) == 80
    assert first.endswith(" eve")
    assert not second.endswith("eve")


def test_plain_text_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033" not in _written_to(io.StringIO())
    assert "\033" in _written_to(Terminal())

    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in _written_to(Terminal())


def test_every_service_that_is_told_about_has_a_colour() -> None:
    assert set(COLOURS) == {service.service_name for service in SERVICES} - {"analytics"}


def _written_to(output: io.StringIO) -> str:
    paper = Paper(output)
    paper.heading("A chapter")
    paper.happening(0.0, "driver", "text", trouble=True)
    return output.getvalue()


# -- observer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "heard", "retries", "outcome", "words"),
    [
        ("loyalty.award_points", "payment.charged", 0, {"type": "task-succeeded", "result": "'done'"},
         "payment.charged -> award_points done"),
        ("driver.assign_driver", "payment.charged", 0,
         {"type": "task-succeeded", "result": "'waiting for 1 of 2 events'"},
         "payment.charged -> assign_driver waits"),
        ("driver.assign_driver", "order.rejected_by_restaurant", 0, {"type": "task-succeeded", "result": "'done'"},
         "order.rejected_by_restaurant -> assign_driver cancelled"),
        ("payment.charge_customer", "order.placed", 1,
         {"type": "task-retried", "exception": "GatewayTimeout('no answer')"},
         "order.placed -> attempt 2 of 6 failed: GatewayTimeout"),
        ("notification.text_arrival", "driver.assigned", 2,
         {"type": "task-failed", "exception": "SmsGatewayDown('no route')"},
         "driver.assigned -> attempt 3 of 3 failed: dead letter"),
        ("notification.dead_letters", "notification.text_arrival: driver.assigned", 0,
         {"type": "task-succeeded", "result": "'driver.assigned ORD-1'"}, None),
        ("notification.alarm_operator", "dead_letter.recorded", 0, {"type": "task-succeeded", "result": "'done'"},
         "dead_letter.recorded -> alarm_operator done"),
        # These say nothing that the events which pass do not say, or nothing at all.
        ("payment.charge_customer", "order.placed", 0,
         {"type": "task-succeeded", "result": "'announced payment.charged ORD-1'"}, None),
        ("driver.assign_driver", "payment.charged", 0, {"type": "task-succeeded", "result": "'done before'"}, None),
        ("loyalty.award_points", "payment.charged", 0, {"type": "task-started"}, None),
    ],
    ids=["done", "waits", "cancelled", "retried", "failed", "notice", "alarm", "announced", "done-before", "started"],
)  # fmt: skip
def test_a_run_is_told_in_words(handler: str, heard: str, retries: int, outcome: dict[str, Any], words: str) -> None:
    run = Run.of({"name": handler, "args": f"{heard} ORD-1", "retries": retries}, SUBSCRIPTIONS)

    assert (run.service, run.subject) == (handler.partition(".")[0], "ORD-1")
    assert run.outcome(outcome) == words


def test_an_event_is_told_with_what_it_is_an_answer_to() -> None:
    observer = Observer(order.app, SERVICES)
    placed = _announced("1", "order.placed", "order", cause=None, ago=2.0)
    charged = _announced("2", "payment.charged", "payment", cause="1", ago=1.0)

    for envelope in (placed, charged):
        observer._on_event([[envelope.to_wire()], {}, {}], None)

    assert [str(observer.next().text) for _ in range(2)] == [
        "a customer -> order.placed",
        "order.placed -> payment.charged",
    ]


def test_what_arrives_late_is_told_where_it_belongs() -> None:
    observer = Observer(order.app, SERVICES)
    later, earlier = time.time() - 1, time.time() - 2
    observer._on_event([[_announced("2", "driver.assigned", "driver", cause=None, ago=1.0).to_wire()], {}, {}], None)
    received = {"type": "task-received", "uuid": "u", "name": "loyalty.award_points", "args": "payment.charged ORD-1"}
    observer._on_worker_event(received | {"timestamp": earlier})
    observer._on_worker_event({"type": "task-succeeded", "uuid": "u", "result": "'done'", "timestamp": earlier})

    assert later > earlier
    assert [observer.next().service for _ in range(2)] == ["loyalty", "driver"]


def test_what_has_just_happened_is_held_back_in_case_something_earlier_is_on_its_way() -> None:
    observer = Observer(order.app, SERVICES)
    observer._on_event([[_announced("1", "order.placed", "order", cause=None, ago=0.0).to_wire()], {}, {}], None)

    assert observer.next() is None


def _announced(event_id: str, event_type: str, source: str, *, cause: str | None, ago: float) -> Envelope:
    at = datetime.fromtimestamp(time.time() - ago, UTC)
    return Envelope(event_id, event_type, source, "ORD-1", at, correlation_id="1", causation_id=cause)


# -- the story as a check --------------------------------------------------------------------------------------------


class IdlePlatform:
    exited: dict[str, int] = {}

    def last_lines(self, name: str) -> list[str]:
        return [f"the last words of {name}"]


class SilentObserver:
    def next(self) -> None:
        return None


def _stage(output: io.StringIO | None = None) -> Stage:
    return Stage(IdlePlatform(), Paper(output or io.StringIO()), SilentObserver())  # type: ignore[arg-type]


def test_a_chapter_that_does_not_come_out_says_what_is_not_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.story.stage.PATIENCE_SECONDS", 0.1)

    with pytest.raises(StoryError, match="still not true that alice is told"):
        _stage().until("alice is told", lambda: False)


def test_a_worker_that_ends_by_itself_ends_the_story(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = _stage()
    monkeypatch.setattr(stage.platform, "exited", {"driver": 1})

    with pytest.raises(StoryError, match=r"driver ended unexpectedly(.|\n)*the last words of driver"):
        stage.until("something", lambda: False)


def test_a_story_that_is_not_true_ends_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class NoPlatform:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def close(self) -> None: ...

    def fail(*_: Any) -> None:
        raise StoryError("It is not so.\n  a line of a log")

    monkeypatch.setattr(performance, "Platform", NoPlatform)
    monkeypatch.setattr(performance, "_play", fail)

    assert performance.perform() == 1
    assert "The story failed" in capsys.readouterr().out


def test_the_command_at_the_end_works_whether_or_not_it_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = tmp_path / ".venv" / "bin", tmp_path / "other"
    for directory in (mine, other):
        directory.mkdir(parents=True)
        (directory / "choreo").touch(0o755)
    monkeypatch.setattr("sys.executable", str(mine / "python"))
    monkeypatch.chdir(tmp_path)

    monkeypatch.setenv("PATH", str(mine))
    assert performance.choreo_command() == "choreo"
    monkeypatch.setenv("PATH", str(other))
    assert performance.choreo_command() == ".venv/bin/choreo"
    monkeypatch.setenv("PATH", "")
    assert performance.choreo_command() == ".venv/bin/choreo"
    monkeypatch.chdir(other)
    assert performance.choreo_command() == str(mine / "choreo")


def test_the_table_counts_what_the_services_did() -> None:
    _do_everything_once("ORD-1")

    assert dict(table.rows()) == {
        "order": "1 order accepted, 1 announced",
        "restaurant": "1 confirmed, 0 rejected",
        "payment": "1 charged, 0 refunded",
        "driver": "1 driver sent",
        "notification": "1 message sent, 0 alarms for the operator",
        "loyalty": "25 points held",
        "analytics": "1 event heard, of 1 type",
    }


def test_an_order_for_which_everything_was_done_once_passes_the_check() -> None:
    _do_everything_once("ORD-1")

    table.check(_told("ORD-1"))


@pytest.mark.parametrize(
    ("ledger", "again", "complaint"),
    [
        (order.ledger, "DELETE FROM orders", "is accepted"),
        (restaurant.ledger, "DELETE FROM answers", "has an answer"),
        (restaurant.ledger, "UPDATE answers SET confirmed = 0", "is refunded if it was rejected"),
        (payment.ledger, "INSERT INTO charges VALUES ('again', 'ORD-1', 1)", "is charged"),
        (payment.ledger, "INSERT INTO refunds VALUES ('again', 'ORD-1', 1)", "is refunded if"),
        (driver.ledger, "INSERT INTO trips VALUES ('again', 'ORD-1', 'DRV-1')", "has a driver"),
        (notification.ledger, "DELETE FROM messages", "has a message"),
        (loyalty.ledger, "INSERT INTO points VALUES ('again', 'ORD-1', 'alice', 25)", "earns points"),
    ],
    ids=["order", "answer", "rejection", "charge", "refund", "trip", "message", "points"],
)
def test_what_was_done_twice_or_not_at_all_fails_the_check(ledger: Any, again: str, complaint: str) -> None:
    _do_everything_once("ORD-1")
    ledger.write(again)

    with pytest.raises(StoryError, match=complaint):
        table.check(_told("ORD-1"))


def _told(*ids: str) -> Stage:
    stage = _stage()
    stage.orders += [Order(order_id, "alice") for order_id in ids]
    return stage


def _do_everything_once(order_id: str) -> None:
    order.ledger.write("INSERT INTO orders VALUES (?, 'alice', '{}', 1)", order_id)
    restaurant.ledger.write("INSERT INTO answers VALUES ('1', ?, 'pizza-palace', 1)", order_id)
    payment.ledger.write("INSERT INTO charges VALUES ('1', ?, 2500)", order_id)
    driver.ledger.write("INSERT INTO trips VALUES ('1', ?, 'DRV-42')", order_id)
    notification.ledger.write("INSERT INTO messages VALUES ('1', ?, 'alice', 'on the way')", order_id)
    loyalty.ledger.write("INSERT INTO points VALUES ('1', ?, 'alice', 25)", order_id)
    analytics.ledger.write("INSERT INTO facts VALUES ('1', 'order.placed', ?, '')", order_id)
