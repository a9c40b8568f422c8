"""`choreo schedule`, on a store in memory."""

import json

import pytest
from click.testing import CliRunner, Result

from choreo import Retry, RetryLater
from choreo.cli import choreo
from choreo.events.message import Message
from choreo.store import Scheduled
from tests.unit.events import OrderPlaced
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    app = service("payment")

    @app.on(OrderPlaced, retry=Retry(times=3))
    def charge(order: OrderPlaced) -> None:
        raise RetryLater(30)

    stage = Stage(app)
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
    return stage


def run(*arguments: str) -> Result:
    return CliRunner().invoke(choreo, ["schedule", *arguments])


def test_nothing_waits_in_the_beginning(stage: Stage):
    assert run().output == "Nothing waits to be sent.\n"


def test_it_tells_what_falls_due_and_when(stage: Stage):
    stage.deliver(ORDER)
    stage.app.publish(ORDER, subject="ORD-1", delay=60)

    lines = run().output.splitlines()

    assert lines[0].split() == ["HANDLER", "DUE", "FOR", "LATER", "NEXT", "(UTC)"]
    assert lines[1].split() == ["payment.charge", "0", "1", "01-01", "00:17:10"]
    assert lines[2].split() == ["delayed", "events", "0", "1", "01-01", "00:17:40"]
    assert all(len(line) <= 80 for line in lines)


def test_what_nobody_sends_is_said_to_be_late(stage: Stage):
    stage.deliver(ORDER)
    stage.wait(100)

    result = run("payment")

    assert result.output.splitlines()[1].split() == ["payment.charge", "1", "70", "s", "0"]
    assert "is a worker of payment running" in result.output


def test_each_handler_is_one_json_object(stage: Stage):
    stage.deliver(ORDER)

    (found,) = [json.loads(line) for line in run("--json").output.splitlines()]

    assert (found["handler"], found["due"], found["later"], found["next_at"]) == ("payment.charge", 0, 1, 1030.0)
    handlers = [json.loads(line)["handler"] for line in run("--json", "--all").output.splitlines()]
    assert handlers == [*stage.store.handlers(), "delayed"]


def test_a_handler_that_is_gone_is_named_with_the_things_that_are_left(stage: Stage):
    stage.store.register(["payment.charge_once"])
    stage.deliver(ORDER)
    assert "No worker declares" not in run().output

    stage.app.runtime.store.schedule("payment.charge_once", Scheduled("retry:1", Message("", "q", b"{}"), 60))

    said = run().output
    assert (
        "No worker declares payment.charge_once any more, and no worker reads its queue. Still there: 1 entry" in said
    )


def test_an_unknown_name_is_refused_with_the_known_ones(stage: Stage):
    result = run("paymnt")

    assert result.exit_code == 1
    assert "No service or handler named 'paymnt' is known. Did you mean payment?" in result.output
    assert "Known are: delayed, payment, payment.charge, payment.dead_letters" in run("xyz").output
