"""The log of repairs: who changed what, when and why; and what `choreo repairs` shows of it."""

import getpass
import json
import socket

import pytest
from click.testing import CliRunner

from choreo.cli.repairs import repairs
from choreo.errors import StoreError
from choreo.operate.repairs import MOST_REASON
from tests.unit.stage import Stage, service


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(service("payment"))
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)
    return stage


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(repairs, arguments)
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_repair_is_told_with_its_time_and_the_person_of_this_process(stage):
    stage.app.repairs.note("paused", "payment.charge", reason="gateway down")
    stage.wait(5)
    stage.app.repairs.note("replayed", "a3f1", 300, who="anna")

    newest, first = stage.app.repairs.recent()

    assert (newest.action, newest.target, newest.count, newest.reason, newest.who) == (
        "replayed",
        "a3f1",
        300,
        "",
        "anna",
    )
    assert first.who == f"{getpass.getuser()}@{socket.gethostname()}"
    assert (first.reason, first.count) == ("gateway down", 1)
    assert (newest.at - first.at).total_seconds() == 5
    assert stage.app.repairs.recent(1) == [newest]


def test_a_note_is_bounded_and_what_another_version_wrote_hides_no_other(stage):
    stage.app.repairs.note("discarded", "x" * 5000, reason="y" * 5000)
    stage.store.note_repair("[5]")
    stage.store.note_repair('{"who": "later"}')

    (repair,) = stage.app.repairs.recent()

    assert len(repair.reason) == MOST_REASON
    assert len(repair.target) == 200


def test_a_store_that_takes_no_note_is_a_warning(stage, monkeypatch, caplog):
    def refuse(text):
        raise StoreError("the store is full")

    monkeypatch.setattr(stage.store, "note_repair", refuse)

    stage.app.repairs.note("paused", "payment.charge")

    assert "payment.charge was paused: the store is full" in caplog.text


def test_the_command_lists_repairs_newest_first(stage, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run() == "No repairs.\n"
    stage.app.repairs.note("paused", "payment.charge", reason="gateway\x1b down", who="anna@desk")
    stage.app.repairs.note("replayed", "a3f1", 300, reason="the gateway is back, says its own page", who="anna@desk")

    heading, first, folded, second = run().splitlines()

    assert heading == "WHEN (UTC)   WHAT       OF WHAT, BY WHOM AND WHY"
    assert first.endswith("replayed   300 of a3f1 by anna@desk: the gateway is back, says its")
    assert folded == f"{'':24}own page"
    assert second.endswith("paused     payment.charge by anna@desk: gateway\\x1b down")
    assert all(len(line) <= 80 for line in (heading, first, folded, second))
    assert run("--limit", "1").count("\n") == 3


def test_the_command_lists_repairs_as_json(stage):
    stage.app.repairs.note("replayed", "a3f1", 300, who="anna")

    (line,) = run("--json").splitlines()

    assert json.loads(line) | {"at": ""} == {
        "at": "",
        "who": "anna",
        "action": "replayed",
        "target": "a3f1",
        "count": 300,
        "reason": "",
    }
