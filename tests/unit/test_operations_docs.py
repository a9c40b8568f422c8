"""The transcripts of docs/operations.md are what the commands print, but for times and ids."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from choreo.cli import choreo
from choreo.testing import Stage
from handlers import analytics, driver, loyalty, notification, payment, restaurant
from handlers.events import OrderPlaced

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
#: The orders of the transcripts, with their customers: see `CARDS` in handlers/payment.py.
ORDERS = {"ORD-7": "alice", "ORD-8": "olga", "ORD-9": "victor"}
#: What differs from one run to the next: times, lengths of time, and ids.
VARYING = re.compile(
    r"\b([0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}|\d\d:\d\d:\d\d|\d+(\.\d+)? (ms|s|min)|[0-9a-f]{10})\b"
    r"|\b[0-9a-f]{8}-\.\.\."
)


def transcripts() -> dict[str, str]:
    """The commands of these orders on the page, each with its output."""
    asking = TEXT.partition("## One order's story")[2].partition("## The map")[0]
    found = re.findall(r"^\$ choreo ((?:trace|why-not) .*)\n((?:(?!\$ |```).*\n)+)", asking, re.MULTILINE)
    return {command: output for command, output in found if command.split()[-1] in ORDERS}


def settled(text: str) -> list[str]:
    """The words without what varies. A time may be longer or shorter, so that lines break elsewhere; or be left out."""
    return VARYING.sub("", text).split()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv("CHOREO_DATA", str(tmp_path))
    services = [one.app for one in (payment, restaurant, driver, notification, loyalty, analytics)]
    stage = Stage(*services, start=datetime(2026, 11, 30, 17, 31, 2, tzinfo=UTC))
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: payment.app)
    with stage:
        for subject, customer in ORDERS.items():
            placed = OrderPlaced(customer_id=customer, restaurant_id="pasta", items=["x"], total_cents=1200)
            stage.publish(placed, subject, source="order")
            stage.run()
        yield stage


def test_there_are_transcripts() -> None:
    assert len(transcripts()) >= 3


@pytest.mark.parametrize("command", transcripts())
def test_a_transcript_is_what_the_command_prints(stage: Stage, command: str) -> None:
    done = CliRunner().invoke(choreo, command.split())

    assert settled(done.output) == settled(transcripts()[command]), done.output


def test_no_line_of_a_transcript_is_longer_than_a_terminal() -> None:
    sections = TEXT.partition("## One order's story")[2].partition("## The map")[0]
    blocks = re.findall(r"```console\n(.*?)```", sections, re.DOTALL)

    assert [line for block in blocks for line in block.splitlines() if len(line) > 80] == []
