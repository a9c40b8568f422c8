"""The code of docs/from-faststream.md is run as it is printed: a worker, a program that publishes, and the tests."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import choreo
from choreo.local.server import EmbeddedServer
from tests.ending import with_this_process
from tests.waiting import DEADLINE, eventually

ROOT = Path(choreo.__file__).parents[1]
PAGE = (ROOT / "docs" / "from-faststream.md").read_text()
BEFORE, AFTER, PLACE, TESTS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
COMMAND = re.findall(r"^```console\n(.*?)\n```", PAGE, re.M | re.S)[0].split()


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, server: EmbeddedServer) -> Path:
    """The files of the page. Only the address of the broker is another one."""
    for name, text in {"payment": AFTER, "place": PLACE, "test_payment": TESTS}.items():
        (tmp_path / f"{name}.py").write_text(text.replace("redis://127.0.0.1:6379/0", server.url))
    return tmp_path


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def run(project: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment(), capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_hundred_orders_are_charged_and_each_gets_one_receipt(project: Path) -> None:
    output = project / "worker.log"
    with output.open("wb") as log:
        command = [sys.executable, "-m", *COMMAND, "--loglevel", "INFO"]
        worker = subprocess.Popen(
            command, cwd=project, env=environment(), stdout=log, stderr=log, preexec_fn=with_this_process
        )
    try:
        eventually(lambda: "ready." in output.read_text() or worker.poll() is not None, reason="the worker")
        run(project, "place.py")
        eventually(lambda: output.read_text().count("receipt for") >= 100, reason="a hundred receipts")
    finally:
        worker.terminate()
        worker.wait(DEADLINE)

    receipts = re.findall(r"receipt for (\S+): 2500 cents", output.read_text())
    assert sorted(receipts) == sorted(f"ORD-{number}" for number in range(1, 101))


def test_the_tests_of_the_page_pass(project: Path) -> None:
    assert "3 passed" in run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_payment.py")


def test_the_consumer_before_and_after_has_the_same_models_and_the_same_work() -> None:
    def names(code: str) -> set[str]:
        return {node.name for node in ast.parse(code).body if isinstance(node, ast.ClassDef | ast.AsyncFunctionDef)}

    assert names(BEFORE) - {"bank"} <= names(AFTER)
