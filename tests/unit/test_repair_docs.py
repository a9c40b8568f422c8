"""The repairs that docs/operations.md shows go as it shows them, and leave every order right and nothing twice."""

import re
import shlex
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest
from click.testing import CliRunner

from choreo.cli import choreo
from choreo.testing import Stage
from handlers import analytics, driver, loyalty, notification, payment, restaurant
from handlers.events import OrderPlaced

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
REPAIRS = TEXT.partition("## Which command for which fault")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```console\n(.*?)```", REPAIRS, re.DOTALL)
#: The sessions: in each the comments and commands, with their outputs.
SESSIONS = [re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE) for block in BLOCKS]

ID = re.compile(r"\b[0-9a-f]{10}\b")
#: What differs from one run to the next: times of day (of another day, its date in their place), and ids.
VARYING = re.compile(r"\b(\d\d:\d\d(:\d\d)?|\d\d-\d\d|[0-9a-f]{10})\b")


START = datetime(2026, 11, 30, 17, 31, 2, tzinfo=UTC)


class ThatDay(datetime):
    """The day of the page is today."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return START.astimezone(tz)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The services of the reference application, and a copy of their cards."""
    monkeypatch.setenv("CHOREO_DATA", str(tmp_path))
    monkeypatch.setattr(payment, "CARDS", dict(payment.CARDS))
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: payment.app)
    services = [one.app for one in (payment, restaurant, driver, notification, loyalty, analytics)]
    # A list shows the day of what was not today.
    monkeypatch.setattr("choreo.cli.letter_groups.datetime", ThatDay)
    with Stage(*services, start=START) as stage:
        yield stage


def order(stage: Stage, customer: str, *subjects: str) -> list[str]:
    """Let a customer place these orders."""
    for subject in subjects:
        placed = OrderPlaced(customer_id=customer, restaurant_id="pasta", items=["x"], total_cents=1200)
        stage.publish(placed, subject, source="order")
    stage.run()
    return list(subjects)


def thaw(stage: Stage) -> list[str]:
    orders = order(stage, "victor", "ORD-9")
    payment.CARDS["victor"] = "good"
    return orders


def text_again(stage: Stage) -> list[str]:
    notification.gateway_outage().touch()
    orders = order(stage, "alice", *(f"ORD-{number}" for number in range(20, 32)))
    stage.advance(minutes=1)
    notification.gateway_outage().unlink()
    return orders


def answer_again(stage: Stage) -> list[str]:
    orders = order(stage, "carol", "ORD-10")
    payment.CARDS["carol"] = "good"
    return orders


#: What has happened before a session, by the comment that says so. Each returns the orders.
BEFORE: dict[str, Callable[[Stage], list[str]]] = {
    "# the provider unfreezes the account": thaw,
    "# twelve orders come while the SMS gateway is down, and it works again": text_again,
    "# the gateway answers again": answer_again,
}


def settled(text: str) -> list[str]:
    """The words without what varies."""
    return VARYING.sub("", text).split()


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session[0][0])
def test_a_repair_goes_as_the_page_shows_it(stage: Stage, session: list[tuple[str, str]]) -> None:
    (comment, _), *turns = session
    orders = BEFORE[comment](stage)
    # The ids on the page, and what they are here.
    known = dict(zip(ID.findall(turns[0][0]), [letter.id for letter in stage.dead_letters], strict=False))
    for line, shown in turns:
        program, *command = [known.get(word, word) for word in shlex.split(line)]
        assert program == "choreo"
        done = CliRunner().invoke(choreo, command)
        assert settled(done.output) == settled(shown), done.output
        known |= dict(zip(ID.findall(shown), ID.findall(done.output), strict=True))
        stage.run()

    once = dict.fromkeys(orders, 1)
    assert stage.dead_letters == []
    for ledger, table in ((payment.ledger, "charges"), (driver.ledger, "trips"), (notification.ledger, "messages")):
        assert Counter(row["order_id"] for row in ledger.rows(f"SELECT order_id FROM {table}")) == once


def test_the_page_shows_a_session_for_each_that_is_known() -> None:
    assert [session[0][0] for session in SESSIONS] == list(BEFORE)


def test_no_line_of_a_session_is_longer_than_a_terminal() -> None:
    assert [line for block in BLOCKS for line in block.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`choreo ([a-z-]+(?: [a-z]+)?)", REPAIRS))))
def test_each_command_of_the_table_exists(named: str) -> None:
    done = CliRunner().invoke(choreo, [*named.split(), "--help"])

    assert done.exit_code == 0, done.output
