"""`choreo joins`: readable at 80 columns, and as JSON."""

import json
import logging
import shlex
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result

from choreo import Event, Retry, RetryLater, Service, Several
from choreo.cli import choreo
from choreo.cli.joins import joins
from tests.unit.events import NOON, OrderConfirmed, OrderPlaced, OrderRejected, PaymentCharged, envelope
from tests.unit.stage import Stage, service
from tests.unit.test_printing import HOSTILE


class ItemPacked(Event):
    pass


def make_service(name: str, on_timeout: bool) -> Service:
    app = service(name)

    def give_up(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> None: ...

    @app.join(
        OrderConfirmed,
        PaymentCharged,
        unless=OrderRejected,
        within=timedelta(minutes=30),
        on_timeout=give_up if on_timeout else None,
        retry=Retry(times=3),
    )
    def assign_the_nearest_driver(confirmed: OrderConfirmed, charged: PaymentCharged) -> None:
        raise RetryLater(1000)

    @app.join(OrderPlaced, Several(ItemPacked, 12), within=timedelta(days=3))
    def ship(placed: OrderPlaced, items: list[ItemPacked]) -> None: ...

    return app


@pytest.fixture
def stage(monkeypatch) -> Stage:
    stage = Stage(make_service("driver", on_timeout=True), start=NOON)
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)
    return stage


def run(*arguments: str, code: int = 0, **options) -> Result:
    result = CliRunner().invoke(joins, arguments, **options)
    assert result.exit_code == code, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if not line.startswith("{")), result.stdout
    return result


ASSIGN, SHIP = "driver.assign_the_nearest_driver", "driver.ship"


def test_nothing_pending_is_said(stage):
    assert run("list").stdout == f"{ASSIGN}\n  nothing pending\n\n{SHIP}\n  nothing pending\n"
    assert run("list", "--json").stdout == ""


def test_pending_joins_are_listed_with_what_they_wait_for(stage):
    stage.deliver(envelope(OrderConfirmed(), subject="ORD-1"), ASSIGN)
    stage.deliver(envelope(OrderConfirmed(), subject="ORD-1"), ASSIGN)
    stage.wait(600)
    stage.deliver(envelope(ItemPacked(), subject="a key of 22 characters"), SHIP)

    assert run("list").stdout == (
        "driver.assign_the_nearest_driver\n"
        "  events that did not count: 1 duplicate\n"
        "KEY                   SINCE (UTC)  UNTIL (UTC)  WAITS FOR\n"
        "ORD-1                 01-01 12:00  01-01 12:30  payment.charged\n"
        "\n"
        "driver.ship\n"
        "KEY                   SINCE (UTC)  UNTIL (UTC)  WAITS FOR\n"
        "a key of 22 characters  01-01 12:10  01-04 12:10  order.placed, 11 x item.packed\n"
    )


def test_in_a_terminal_a_long_key_has_a_line_of_its_own(stage, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stage.deliver(envelope(OrderConfirmed(), subject=f"ORD-{'0123456789' * 4}"), ASSIGN)

    assert f"\nORD-{'0123456789' * 4}\n                      01-01 12:00  01-01 12:30  payment" in run("list").stdout


def test_a_list_can_be_of_some_handlers_only(stage):
    assert run("list", "driver.ship").stdout == "driver.ship\n  nothing pending\n"
    assert run("list", "driver").stdout == f"{ASSIGN}\n  nothing pending\n\n{SHIP}\n  nothing pending\n"

    said = run("list", "diver", code=1).output
    assert "No service or handler named 'diver' is known. Did you mean driver? A service makes itself known" in said


@pytest.mark.parametrize("command", [["show"], ["cancel", "--reason", "x", "--yes"], ["fire"]])
def test_an_unknown_handler_is_refused_with_the_known_ones(stage, command):
    said = run(*command, "ORD-1", "--handler", "driver", code=1).output

    assert "No join named 'driver' is known. Did you mean driver.ship?" in said


def test_a_long_list_goes_on_where_it_ended(stage):
    for number in range(5):
        stage.deliver(envelope(OrderConfirmed(), subject=f"ORD-{number}"), ASSIGN)
        stage.wait(60)

    *first, more = _lines("--limit", "2")
    assert [line.split()[0] for line in first[2:]] == ["ORD-0", "ORD-1"]

    arguments = more.split("choreo joins list ")[1]
    second = CliRunner().invoke(joins, ["list", *shlex.split(arguments)]).stdout
    assert "ORD-2" in second
    assert "ORD-0" not in second
    assert "--after continues the list of one HANDLER" in run("list", "--after", "x", code=2).output


def _lines(*options: str) -> list[str]:
    return CliRunner().invoke(joins, ["list", ASSIGN, *options]).stdout.splitlines()


def test_a_list_as_json_is_one_object_a_line_and_can_be_whole(stage):
    for number in range(250):
        stage.deliver(envelope(OrderConfirmed(), subject=f"ORD-{number}"), ASSIGN)
        stage.wait(1)

    result = run("list", ASSIGN, "--json", "--limit", "0")

    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["key"] for record in records] == [f"ORD-{number}" for number in range(250)]
    assert records[0]["missing"] == [{"type": "payment.charged", "count": 1}]
    assert records[0]["until"] == "2026-01-01T12:30:00+00:00"
    assert result.stderr == ""
    assert "--after" in run("list", ASSIGN, "--json", "--limit", "3").stderr


def test_a_join_is_explained(stage):
    stage.deliver(envelope(OrderConfirmed(), subject="ORD-1"), ASSIGN)
    stage.deliver(envelope(PaymentCharged(), subject="ORD-1", id="p-1"), ASSIGN)
    stage.deliver(envelope(ItemPacked(), subject="ORD-1", id="i-1"), SHIP)

    said = run("show", "ORD-1").stdout

    assert "driver.assign_the_nearest_driver ORD-1\n  waits for: its next attempt\n" in said
    assert "  attempts:  1 failed\n" in said
    assert "    01-01 12:00:00  payment.charged ORD-1\n                    id p-1, from order\n" in said
    assert (
        "driver.ship ORD-1\n  waits for: order.placed, 11 x item.packed\n  since:     2026-01-01 12:00:00 UTC (" in said
    )
    record = json.loads(run("show", "ORD-1", "--handler", SHIP, "--json").stdout)
    assert record["arrived"][0]["event"]["id"] == "i-1"


def test_a_join_that_is_overdue_is_listed_first_and_as_such(stage):
    stage.deliver(envelope(OrderConfirmed(), subject="ORD-1"), ASSIGN)
    stage.deliver(envelope(OrderConfirmed(), subject="ORD-2"), ASSIGN)
    stage.wait(1801)
    stage.store.sent(ASSIGN, [key for key, _ in stage.store.due(ASSIGN, 1, 10)])

    *_, first, second = run("list", ASSIGN).stdout.splitlines()

    assert (first.split()[0], first.split()[3]) == ("ORD-1", "overdue")
    assert (second.split()[0], second.split()[4]) == ("ORD-2", "12:30")
    assert "and its handler was notified" in run("show", "ORD-1").stdout


def test_what_is_not_pending_is_one_line(stage):
    for arguments in (["show", "ORD-1"], ["cancel", "ORD-1", "--reason", "x"], ["fire", "ORD-1"]):
        said = CliRunner().invoke(joins, arguments)
        assert said.exit_code == 1
        assert "Error: No join waits for 'ORD-1'" in said.output


def test_a_join_is_cancelled_after_a_question(stage):
    stage.deliver(envelope(OrderConfirmed(), subject="ORD-1"), ASSIGN)

    assert (
        "ORD-1 has order.confirmed.\nForget the join for good?"
        in run("cancel", "ORD-1", "--reason", "called", input="n\n").stdout
    )
    assert len(list(stage.app.joins)) == 1

    said = run("cancel", "ORD-1", "--reason", "called", "--yes").stdout
    assert "ORD-1: cancelled. Parts that come later are ignored; with rounds=True" in " ".join(said.split())
    assert list(stage.app.joins) == []
    (repair,) = stage.app.repairs.recent()
    assert (repair.action, repair.target, repair.reason) == ("cancelled", f"{ASSIGN} ORD-1", "called")


def test_a_join_that_is_fired_is_in_the_log_of_repairs(stage):
    stage.deliver(envelope(OrderConfirmed(), subject="ORD-1"), ASSIGN)

    run("fire", "ORD-1", "--as-timeout")

    (repair,) = stage.app.repairs.recent()
    assert (repair.action, repair.target) == ("fired", f"{ASSIGN} ORD-1")


def test_the_reason_is_asked_for_and_the_log_of_the_command_is_not_on_the_terminal(stage, monkeypatch):
    stage.deliver(envelope(OrderConfirmed(), subject="ORD-1"), ASSIGN)
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.lastResort, "handle", records.append)
    # pytest's own handlers would get it.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    result = run("cancel", "ORD-1", "--yes", input="called\n")

    assert "Why: " in result.stdout
    assert "ORD-1: cancelled." in result.stdout
    assert records == []


def test_a_join_is_fired_or_refused_with_the_way_out(stage):
    stage.deliver(envelope(OrderConfirmed(), subject="ORD-1"), ASSIGN)

    said = CliRunner().invoke(joins, ["fire", "ORD-1"])
    assert said.exit_code == 1
    assert (
        "does not accept None for payment.charged. Make the parameter `| None`, or fire it as on timeout" in said.output
    )

    said = CliRunner().invoke(joins, ["fire", "ORD-1", "--as-timeout"]).stdout
    assert "on_timeout runs with order.confirmed." in " ".join(said.split())
    stage.pass_time(0)
    assert list(stage.app.joins) == []


def test_the_command_is_there():
    assert CliRunner().invoke(choreo, ["joins", "--help"]).exit_code == 0


#: A queue refuses an event with half of a surrogate pair.
SENDABLE = {name: text for name, text in HOSTILE.items() if "\ud800" not in text}


@pytest.mark.parametrize("text", SENDABLE.values(), ids=SENDABLE)
def test_a_hostile_key_acts_on_no_terminal(stage, text):
    stage.deliver(envelope(OrderConfirmed(), subject=text, id=f"e-{text}", source=text), ASSIGN)

    for command in (("list",), ("show", text), ("list", "--json"), ("fire", text, "--handler", ASSIGN)):
        said = CliRunner().invoke(joins, command).output
        assert all(line.isprintable() for line in said.split("\n")), said
