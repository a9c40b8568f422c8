"""`choreo schedule`, on a store in memory."""

import json
import shlex

import pytest
from click.testing import CliRunner, Result

from choreo import Reason, Retry, RetryLater
from choreo.cli import choreo
from choreo.events.message import Message
from choreo.store import Scheduled
from tests.unit.events import OrderPlaced, PaymentCharged
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


# -- list, now and drop ---------------------------------------------------------------------------------------------

LONG = "ORD-0123456789-0123456789-0123456789-012"


def shown(*arguments: str, code: int = 0, **options) -> str:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(choreo, ["schedule", *arguments], **options)
    assert result.exit_code == code, result.output
    wide = [line for line in result.output.splitlines() if len(line) > 80 and not line.startswith(("{", "More: "))]
    assert wide == []
    return result.output


def entry_id(stage: Stage, subject: str) -> str:
    return stage.app.schedule.find(subject)[0].id


def test_the_options_may_stand_before_the_name_of_a_service(stage: Stage):
    stage.deliver(ORDER)

    assert json.loads(run("--json", "payment").output)["handler"] == "payment.charge"
    assert run("counts", "payment").output == run("payment").output


def test_a_list_shows_whole_subjects_attempts_and_errors(stage: Stage):
    stage.deliver(ORDER, subject=LONG)
    stage.app.publish(ORDER, subject="ORD-2", delay=60)

    lines = shown("list").splitlines()

    assert lines[0].split() == ["DUE", "(UTC)", "KIND", "ID", "HANDLER"]
    assert lines[1].split() == ["01-01", "00:17:10", "retry", entry_id(stage, LONG), "payment.charge"]
    assert lines[2].startswith(f"    {LONG} ")
    assert "attempt 2: RetryLater: asked to be called again in 30 s" in " ".join(" ".join(lines).split())
    assert lines[-2].split()[2:] == ["delayed", entry_id(stage, "ORD-2"), "delayed", "events"]
    assert lines[-1] == "    ORD-2  order.placed"
    assert shown("list", "--subject", "ORD-9") == "Nothing waits to be sent about ORD-9.\n"


def test_a_list_is_continued(stage: Stage):
    for number in range(3):
        stage.app.publish(ORDER, subject=f"ORD-{number}", delay=60)

    *_, more = shown("list", "--limit", "2").splitlines()
    assert more.startswith("More: choreo schedule list --limit 2 --after ")
    rest = shown(*shlex.split(more.removeprefix("More: choreo schedule ")))

    assert rest.count("order.placed") == 1
    assert "More" not in rest


def test_each_entry_is_one_json_object(stage: Stage):
    stage.deliver(ORDER, subject="ORD-1")

    (found,) = [json.loads(line) for line in shown("list", "--json").splitlines()]

    assert (found["kind"], found["subject"], found["attempt"], found["type"]) == ("retry", "ORD-1", 2, "order.placed")
    assert found["event"]["data"]["customer_id"] == "alice"


def test_a_subject_is_hurried(stage: Stage):
    stage.deliver(ORDER, subject="ORD-1")

    own = entry_id(stage, "ORD-1")
    assert f"{own}): due now." in " ".join(shown("now", "ORD-1", "--reason", "mended").split())
    assert "    ORD-1  order.placed, attempt 2" in shown("list")
    assert shown("list").splitlines()[1].split()[0] == "now"
    assert [repair.reason for repair in stage.app.repairs.recent()] == ["mended"]


def test_nothing_to_hurry_is_an_error_and_the_others_are_hurried(stage: Stage):
    stage.deliver(ORDER, subject="ORD-1")

    said = " ".join(shown("now", "ORD-7", "ORD-1", code=1).split())

    assert "No retry, replay or delayed event of ORD-7 waits in the schedule." in said
    assert "due now." in said
    shown("now", "", code=2)


def test_a_dropped_retry_is_confirmed_and_can_be_undone(stage: Stage):
    stage.deliver(ORDER, subject="ORD-1")

    said = " ".join(shown("drop", "ORD-1", input="n\n").split())
    assert "becomes a dead letter, which you can replay or discard; no other attempt is made. Drop it? [y/N]" in said
    assert stage.dead_letters == []

    said = " ".join(shown("drop", "ORD-1", "--reason", "a test", input="y\n").split())
    (letter,) = stage.dead_letters
    assert letter.reason is Reason.DROPPED
    assert f"It is dead letter {letter.id} now. To undo it: DO choreo dead-letters replay {letter.id}" in said


def test_a_dropped_event_is_printed_whole(stage: Stage):
    stage.app.publish(ORDER, subject="ORD-1", delay=60)

    said = shown("drop", entry_id(stage, "ORD-1"), "--yes")

    assert json.loads(said.splitlines()[-1])["data"]["customer_id"] == "alice"
    assert stage.app.schedule.page() == ([], "")


def test_the_deadline_of_a_subject_stays_unless_it_is_named(monkeypatch: pytest.MonkeyPatch):
    app = service("driver")

    @app.join(OrderPlaced, PaymentCharged)
    def assign(order: OrderPlaced, charged: PaymentCharged) -> None: ...

    stage = Stage(app)
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
    stage.deliver(ORDER, subject="ORD-1")
    own = entry_id(stage, "ORD-1")

    said = " ".join(shown("now", "ORD-1", code=1).split())
    assert said.startswith("Error: No retry, replay or delayed event of ORD-1 waits in the schedule.")
    assert said.endswith(f"Deadlines stay as they are: `choreo schedule now {own}` ends the join driver.assign.")
    assert "A join without a deadline would wait for ever" in " ".join(shown("drop", own, code=1).split())
    shown("now", own, input="n\n")
    stage.run()
    assert app.joins.find("ORD-1") != []

    shown("now", own, input="y\n")
    stage.run()
    assert [letter.reason for letter in stage.dead_letters] == [Reason.EXPIRED]
