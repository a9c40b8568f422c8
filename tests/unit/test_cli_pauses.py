"""`choreo pause` and `choreo resume`: readable at 80 columns, and as JSON."""

import json

import pytest
from click.testing import CliRunner, Result

from choreo.cli import choreo
from choreo.store.presence import Program
from tests.unit.stage import Stage
from tests.unit.test_pauses import CHARGE, REFUND, make_service


@pytest.fixture
def stage(monkeypatch) -> Stage:
    stage = Stage(make_service())
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)
    monkeypatch.setattr("choreo.cli.pauses.PATIENCE", 0.0)
    return stage


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(choreo, arguments)
    assert result.exit_code == code, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if not line.startswith("{")), result.stdout
    return result


def words(result: Result) -> str:
    return " ".join(result.output.split())


def live(stage: Stage, *paused: str) -> None:
    """A worker lives that consumes the queue of CHARGE, and holds these queues back."""
    queue = stage.app.runtime.queue_of(CHARGE)
    program = Program("payment@a/1", "payment@a", pool="solo", queues=(queue,), paused=paused, digest="d")
    stage.store.report("payment", program, "declared", 60.0)


def test_a_pause_says_on_how_many_workers_and_until_when(stage):
    live(stage, stage.app.runtime.queue_of(CHARGE))

    said = words(run("pause", CHARGE, "--for", "30m", "--reason", "gateway down"))

    assert f"{CHARGE} is paused on 1 worker, also after restarts, until 1970-01-01 00:46:40 UTC." in said
    assert "confirmed" not in said
    assert f"`choreo resume {CHARGE}` ends it earlier." in said
    assert stage.app.pauses.get(CHARGE).reason == "gateway down"


def test_a_pause_that_a_worker_does_not_follow_yet_or_that_replaces_another_says_so(stage):
    live(stage)

    assert "Not every worker has confirmed that yet." in words(run("pause", CHARGE))
    assert "It was paused before, since 00:16:40 UTC." in words(run("pause", CHARGE, "--rate", "5/s"))


def test_the_log_of_repairs_tells_to_which_rate_a_handler_was_slowed(stage):
    run("pause", CHARGE, "--rate", "10/m", "--reason", "gateway slow")
    run("pause", CHARGE, "--rate", "1/s")
    run("pause", CHARGE, "--reason", "gateway down")

    said = [(repair.action, repair.reason) for repair in stage.app.repairs.recent()]

    assert said == [("paused", "gateway down"), ("slowed", "to 1/s"), ("slowed", "to 10/m: gateway slow")]


def test_without_a_worker_that_is_said(stage):
    assert f"{CHARGE} is paused though no worker of it lives." in words(run("pause", CHARGE))


def test_pauses_are_listed_for_people_and_programs(stage):
    assert "Nothing is paused." in run("pause").output
    run("pause", CHARGE, "--reason", "gateway down")

    assert "is paused since 1970-01-01 00:16:40 UTC by" in words(run("pause"))
    assert words(run("pause")).endswith(f"gateway down; `choreo resume {CHARGE}` ends it")
    (line,) = run("pause", "--json").stdout.splitlines()
    told = json.loads(line)
    assert (told["handler"], told["reason"], told["until"]) == (CHARGE, "gateway down", None)
    assert told["since"] == "1970-01-01T00:16:40+00:00"


def test_a_service_is_resumed_with_all_its_handlers_and_nothing_paused_is_exit_code_1(stage):
    run("pause", "payment")
    stage.wait(120)

    said = words(run("resume", "payment", "--reason", "it is back"))

    assert f"{CHARGE} is resumed. It was paused for 2 min." in said
    assert f"{REFUND} is resumed." in said
    assert "Nothing is paused of payment." in words(run("resume", "payment", code=1))


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["pause", "payment.charge_custmer"], f"Did you mean {CHARGE}", 1),
        (["resume", "payment.charge_custmer"], f"Did you mean {CHARGE}", 1),
        (["pause", CHARGE, "--rate", "0"], "To stop the handler, leave the rate out.", 1),
        (["pause", CHARGE, "--for", "30"], "'30' has no unit. Write 30s, 30m, 30h or 30d.", 2),
        (["pause", CHARGE, "--for", "0s"], "from 1 second", 1),
        (["pause", "--for", "30m"], "Name the handlers to pause.", 2),
        (["resume"], "HANDLER|SERVICE", 2),
    ],
)
def test_what_cannot_work_is_refused_with_the_way_out(stage, arguments, said, code):
    assert said in words(run(*arguments, code=code))
    assert list(stage.app.pauses) == []
