"""Completion of the `choreo` command, `python -m choreo`, and the version."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

import choreo
from choreo import Envelope, Service
from choreo.cli import choreo as command
from tests.unit.events import OrderPlaced
from tests.unit.stage import Stage, service

ROOT = Path(__file__).parents[2]


def offered(*words: str) -> list[str]:
    complete = ShellComplete(command, {}, "choreo", "_CHOREO_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Service:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    app.runtime.introduce()
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
    return app


@pytest.mark.parametrize("words", [["dead-letters", "list"], ["joins", "list"], ["schedule"]])
def test_services_and_handlers_are_completed_from_the_store(known: Service, words: list[str]) -> None:
    assert offered(*words, "payment.c") == ["payment.charge"]
    assert offered(*words, "pay") == ["payment", "payment.charge", "payment.dead_letters"]
    assert offered(*words, "x") == []


@pytest.mark.parametrize("words", [["trace"], ["why-not", "payment.charged"]])
def test_subjects_of_the_last_hour_are_completed_from_the_record(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: Envelope) -> None: ...

    stage = Stage(app)
    for subject in ("ORD-1", "ORD-2", "BASKET-1"):
        stage.publish(OrderPlaced(customer_id="c"), subject)
    stage.run()
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)

    assert offered(*words, "ORD") == ["ORD-1", "ORD-2"]
    assert offered(*words, "x") == []


def test_types_of_events_are_completed_from_the_package() -> None:
    assert "order.placed" in offered("publish", "--package", "handlers", "order.")
    assert offered("publish", "--package", "handlers", "x") == []


def test_without_a_store_or_a_package_nothing_is_offered_and_nothing_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHOREO_BROKER_URL", "redis://127.0.0.1:1/0")

    assert offered("schedule", "pay") == []
    assert offered("schedule", "--broker", "nonsense", "pay") == []
    assert offered("publish", "--package", "nosuch", "order.") == []
    assert capsys.readouterr() == ("", "")


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "choreo", "--help"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0
    assert done.stdout.startswith("Usage: choreo ")


def test_the_version_is_that_of_the_package() -> None:
    assert choreo.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
