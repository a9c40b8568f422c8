"""`choreo stories`: readable at 80 columns, and as JSON."""

import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from choreo import Service
from choreo.cli.stories import stories
from tests.unit.events import (
    NOON,
    DriverAssigned,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PaymentCharged,
    PaymentFailed,
    envelope,
)
from tests.unit.stage import Stage, service
from tests.unit.test_printing import HOSTILE

PLACED = OrderPlaced(customer_id="alice")


def make_service() -> Service:
    app = service("shop")
    app.story(
        "delivery",
        begins=OrderPlaced,
        steps=[OrderConfirmed, PaymentCharged],
        ends=[DriverAssigned, OrderRejected, PaymentFailed],
        within=timedelta(minutes=30),
    )
    app.story("payment", begins=OrderConfirmed, ends=PaymentCharged, within=timedelta(days=2))
    return app


@pytest.fixture
def stage(monkeypatch) -> Stage:
    stage = Stage(make_service(), start=NOON)
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)
    return stage


def tell(stage: Stage, *events, subject: str = "ORD-1") -> None:
    for event in events:
        stage.publish(event, subject=subject)
        stage.advance(seconds=30)


def run(*arguments: str, code: int = 0, **options) -> Result:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(stories, arguments, **options)
    assert result.exit_code == code, result.output
    # A command that is to be copied stays on one line.
    lines = [line for line in result.stdout.splitlines() if not line.startswith(("{", "More: "))]
    assert all(len(line) <= 80 for line in lines), result.stdout
    return result


def test_nothing_pending_is_said(stage):
    assert run("list").stdout == "shop.delivery\n  nothing pending\n\nshop.payment\n  nothing pending\n"
    assert run("list", "--json").stdout == ""
    assert run("list", "delivery", "--overdue").stdout == "shop.delivery\n  nothing overdue\n"


def test_pending_stories_are_listed_overdue_ones_first_with_the_counts(stage):
    tell(stage, PLACED, OrderRejected(), subject="ORD-0")
    tell(stage, PLACED, OrderConfirmed(), subject="an order with a long name")
    stage.advance(minutes=29)
    tell(stage, PLACED, subject="ORD-2")
    stage.advance(minutes=3)

    assert run("list").stdout == (
        "shop.delivery\n"
        "  so far: 1 ended in time, 1 overdue\n"
        "KEY                   STEP     WAITS FOR                          DUE (UTC)\n"
        "an order with a long name\n                      2 of 4   payment.charged                    4 min ago\n"
        "ORD-2                 1 of 4   order.confirmed, payment.charged   01-01 13:01\n"
        "\n"
        "shop.payment\n"
        "KEY                   STEP     WAITS FOR                          DUE (UTC)\n"
        "an order with a long name\n                      1 of 2   payment.charged                    01-03 12:01\n"
    )
    assert "ORD-2" not in run("list", "--overdue", code=1).stdout
    assert run("list", "payment", "--overdue").stdout == "shop.payment\n  nothing overdue\n"


def test_in_a_terminal_a_long_key_has_a_line_of_its_own(stage):
    tell(stage, PLACED, subject=f"ORD-{'0123456789' * 4}")

    assert f"\nORD-{'0123456789' * 4}\n                      1 of 4   " in run("list", "delivery").stdout


def test_a_story_is_shown_with_its_course(stage):
    tell(stage, PLACED, OrderConfirmed())
    stage.advance(minutes=32)
    first, second = stage.app.stories.get("ORD-1", "delivery").arrived

    assert run("show", "ORD-1", "--story", "delivery").stdout == (
        "shop.delivery ORD-1\n"
        "  step 2 of 4, waiting for payment.charged, overdue by 3 min\n"
        "  began:     2026-01-01 12:00:00 UTC\n"
        "  due:       2026-01-01 12:30:00 UTC\n"
        "  ends with: driver.assigned or order.rejected or payment.failed\n"
        "  came:\n"
        "    01-01 12:00:00  order.placed\n"
        f"                    id {first.envelope.id}, from test\n"
        "    01-01 12:00:30  order.confirmed\n"
        f"                    id {second.envelope.id}, from test\n"
    )
    assert run("show", "ORD-1").stdout.count("\nshop.payment ORD-1\n") == 1


def test_without_missing_steps_it_waits_for_an_end(stage):
    tell(stage, PLACED, OrderConfirmed(), PaymentCharged())

    told = " ".join(run("show", "ORD-1").stdout.split())
    assert "step 3 of 4, waiting for driver.assigned or order.rejected or payment.failed began:" in told


def test_one_that_has_not_begun_says_so(stage):
    tell(stage, PaymentCharged())

    assert (
        "  not begun: only other events have come, step 1 of 4, waiting for"
        in run("show", "ORD-1", "--story", "delivery").stdout
    )


def test_json_has_everything(stage):
    tell(stage, PLACED)
    stage.advance(minutes=30)
    (line,) = run("list", "delivery", "--json").stdout.splitlines()

    found = json.loads(line)
    assert json.loads(run("show", "ORD-1", "--json").stdout) == found
    (placed,) = stage.app.stories.get("ORD-1").arrived
    assert found == {
        "service": "shop",
        "story": "delivery",
        "key": "ORD-1",
        "step": 1,
        "steps": 4,
        "arrived": [
            {
                "type": "order.placed",
                "time": "2026-01-01T12:00:00+00:00",
                "at": "2026-01-01T12:00:00+00:00",
                "id": placed.envelope.id,
                "source": "test",
                "counts": True,
            }
        ],
        "missing": ["order.confirmed", "payment.charged"],
        "ends": ["driver.assigned", "order.rejected", "payment.failed"],
        "since": "2026-01-01T12:00:00+00:00",
        "until": "2026-01-01T12:30:00+00:00",
        "overdue": True,
        "overdue_seconds": 30.0,
    }


def test_a_long_list_is_continued(stage):
    for number in range(5):
        tell(stage, PLACED, subject=f"ORD-{number}")
    command = run("list", "delivery", "--limit", "3").stdout.splitlines()[-1]
    assert command.startswith("More: choreo stories list shop.delivery --limit 3 --after ")

    rest = run(*shlex.split(command)[3:]).stdout

    assert [line.split()[0] for line in rest.splitlines()[2:]] == ["ORD-3", "ORD-4"]
    assert len(run("list", "delivery", "--limit", "0").stdout.splitlines()) == 7


def test_a_story_is_forgotten_after_a_question(stage):
    tell(stage, PLACED)
    asked = run("forget", "ORD-1", "--reason", "a test order", input="n\n")
    assert "step 1 of 4, waiting for order.confirmed, payment.charged." in " ".join(asked.stdout.split())
    assert len(stage.stories) == 1

    assert run("forget", "ORD-1", "--reason", "a test order", "--yes").stdout == "shop.delivery ORD-1: forgotten.\n"

    assert stage.stories == []


@pytest.mark.parametrize("key", HOSTILE.values(), ids=HOSTILE)
def test_foreign_text_does_not_act_on_the_terminal(stage, key):
    stage.deliver(envelope(PLACED, subject=key), "shop.delivery")
    told = run("list").stdout + run("show", key).stdout + run("list", "--json").stdout

    assert all(line.isprintable() for line in told.split("\n"))
    assert json.loads(run("show", key, "--json").stdout)["key"] == key


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("list nosuch", "No story or service named 'nosuch' is known. Known are: "),
        ("show nosuch", "'nosuch' has no pending story: it has ended, was forgotten or never began."),
        ("show ORD-1 --story nosuch", "No story 'nosuch' is known. Known are: shop.delivery, shop.payment."),
        ("forget nosuch --reason x --yes", "'nosuch' has no pending story"),
        ("list delivery --after nosuch", "'nosuch' is no place in a list of stories."),
    ],
)
def test_an_unknown_name_is_answered_with_a_way_out(stage, command, said):
    assert said in run(*command.split(), code=1).output


def test_a_list_without_stories_says_so(monkeypatch):
    stage = Stage(service("shop"))
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)

    assert "No stories are known. A service makes its stories known when its worker starts." in run("list").stderr


def test_the_document_shows_it_as_it_is(monkeypatch):
    began = datetime(2030, 1, 1, 11, 45, tzinfo=UTC)
    app = service("analytics")
    app.story(
        "delivery",
        begins=OrderPlaced,
        steps=[OrderConfirmed, PaymentCharged],
        ends=[DriverAssigned, OrderRejected, PaymentFailed],
        within=timedelta(minutes=45),
    )
    stage = Stage(app, start=began)
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)
    # Otherwise a moment in a far year would be shown as a date.
    monkeypatch.setattr("choreo.cli.stories.shown_moment", lambda moment, near: f"{moment:{near}}")
    counts = {"ended_in_time": 1204, "ended_late": 12, "overdue": 13}
    stage.store._drawers["analytics.delivery"].tally.update(counts)
    first, second = "7e0c3c4e-7f0b-5d3a-8f58-6f1b2f0c1d2e", "5b1f7c0a-2f64-5c0e-9d2a-0c8f3f6f9a11"
    later = began + timedelta(seconds=2)
    stage.deliver(envelope(PLACED, id=first, time=began), "analytics.delivery")
    stage.deliver(envelope(OrderConfirmed(), id=second, source="restaurant", time=later), "analytics.delivery")
    stage.advance(minutes=11)
    tell(stage, PLACED, subject="ORD-7")
    stage.advance(minutes=37, seconds=-30)

    text = (Path(__file__).parents[2] / "docs" / "stories.md").read_text()
    shown = text.partition("```\n$ choreo stories list\n")[2].partition("```")[0]
    assert shown == f"{run('list').stdout}\n$ choreo stories show ORD-1\n{run('show', 'ORD-1').stdout}"
