"""Every command answers a name that nobody knows with one clear line, the way out, and the exit code 1 or 2."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from choreo import Service
from choreo.cli import choreo
from choreo.errors import ChoreoError
from tests.unit.events import OrderPlaced, PaymentCharged
from tests.unit.stage import Stage, service

#: Words of a command → what it says of the name "nosuch".
UNKNOWN = {
    "dead-letters list nosuch": "No service or handler named 'nosuch' is known. Known are: payment, payment.dead",
    "dead-letters list --after nosuch": "'nosuch' is no place in a list of dead letters. The list before ends",
    "dead-letters show nosuch": "There is no dead letter 'nosuch'. `choreo dead-letters list` shows all of them.",
    "dead-letters replay nosuch": "There is no dead letter 'nosuch'. `choreo dead-letters list` shows all of them.",
    "dead-letters discard nosuch --yes": "There is no dead letter 'nosuch'. `choreo dead-letters list` shows all",
    "joins list nosuch": "No service or handler named 'nosuch' is known. Known are: payment, payment.join_them.",
    "joins list payment nosuch --json": "No service or handler named 'nosuch' is known. Known are: payment,",
    "joins show nosuch": "No join waits for 'nosuch': it was settled, cancelled or never begun. `choreo joins list`",
    "joins cancel nosuch --reason x --yes": "No join waits for 'nosuch'",
    "joins fire nosuch": "No join waits for 'nosuch'",
    "joins show k --handler nosuch": "No join named 'nosuch' is known. Known are: payment.join",
    "joins cancel k --handler nosuch --reason x --yes": "No join named 'nosuch' is known. Known are: payment.join",
    "joins fire k --handler nosuch": "No join named 'nosuch' is known. Known are: payment.join",
    "joins show nosuch --handler payment.join_them": "payment.join_them has no pending join 'nosuch'",
    "joins list payment.join_them --after nosuch": "'nosuch' is no place in a list of joins. The list before ends",
    "joins list --limit -1": "Invalid value for '--limit'",
    "schedule nosuch": "No service or handler named 'nosuch' is known. Known are: delayed, payment, payment.dead",
    "schedule nosuch --json --all": "No service or handler named 'nosuch' is known.",
    "publish no.such --package tests.unit.events": "tests.unit.events knows no event 'no.such'.",
    "publish no.such": "no package in this directory knows an event 'no.such'. Known are: parcel.weighed.",
    "publish order.placed --package nosuch": "There is no package or module 'nosuch' here.",
    "publish order.placed --package no-such/x.py": "There is no package or module 'no-such/x.py' here.",
    "up nosuch": "There is no package or module 'nosuch' here.",
    "up nosuch.module": "There is no package or module 'nosuch.module' here.",
    "nosuch": "No such command 'nosuch'.",
    "traces": "No such command 'traces'. Did you mean trace?",
    "joins nosuch": "No such command 'nosuch'.",
    "joins lst": "No such command 'lst'. Did you mean list?",
    "dead-letters repaly": "No such command 'repaly'. Did you mean replay?",
    "stories forgot": "No such command 'forgot'. Did you mean forget?",
    "why-not ORD-1 driver.assigned": "Did you mean `choreo why-not driver.assigned ORD-1`?",
    "joins cancel A B": "Got unexpected extra argument (B)",
    "stories forget A B": "Got unexpected extra argument (B)",
    "schedule --nosuch": "No such option",
}


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    app = service("payment")

    @app.join(OrderPlaced, PaymentCharged, within=timedelta(minutes=1))
    def join_them(order: OrderPlaced, charged: PaymentCharged) -> None: ...

    stage = Stage(app)
    app.runtime.introduce()
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
    (tmp_path / "depot.py").write_text("from choreo import Event\nclass ParcelWeighed(Event): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield app
    stage.__exit__(None, None, None)


@pytest.mark.parametrize("command", UNKNOWN)
def test_a_name_that_nobody_knows_is_refused_in_one_line(app: Service, command: str) -> None:
    result = CliRunner().invoke(choreo, command.split())

    assert result.exit_code in (1, 2), result.output
    # `main` prints such an error in the same way.
    known = isinstance(result.exception, (SystemExit, ChoreoError))
    assert known, result.exception
    said = result.output if isinstance(result.exception, SystemExit) else f"Error: {result.exception}"
    (line,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert UNKNOWN[command] in line
    assert "Traceback" not in said
    assert "Why:" not in said


@pytest.mark.parametrize("command", [["trace", ""], ["trace", " "], ["why-not", "order.placed", ""]])
def test_an_empty_subject_is_refused(app: Service, command: list[str]) -> None:
    result = CliRunner().invoke(choreo, command)

    assert result.exit_code == 2
    assert "Invalid value for SUBJECT|ID: it is empty. Name a subject or an id, such as ORD-1." in result.output


def test_the_empty_store_is_named_with_its_namespace(app: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = service("command_line", choreo_namespace="stagging")
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: empty)

    said = CliRunner().invoke(choreo, ["dead-letters", "list", "payment"]).output

    assert "Known are: none." in said
    assert "The store is memory: (namespace 'stagging')." in said
