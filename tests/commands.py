"""
Running `choreo`, for tests of the command line.

A command that the test waits for runs in this process. One that runs beside the test, or beside another command, is a
process of its own: CliRunner puts its own sys.stdout and os.environ in place of those that every thread here uses, and
commands that overlap put back each other's.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from choreo.cli import choreo

#: The environment variables that say where broker and store are.
PLACES = ("CHOREO_BROKER_URL", "CHOREO_STORE_URL", "CELERY_BROKER_URL")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says where broker and store are."""
    for name in os.environ:
        if name.startswith(("CHOREO_", "CELERY_BROKER_", "DJANGO_SETTINGS_MODULE")):
            monkeypatch.delenv(name)
    # It has kept what these variables were when it was imported.
    monkeypatch.delitem(sys.modules, "celeryconfig", raising=False)


def run(*arguments: str, code: int) -> Result:
    """Run a command that ends with this code, and never says the password."""
    result = CliRunner().invoke(choreo, arguments)
    assert result.exit_code == code, result.output
    assert "secret" not in result.output
    return result


@contextmanager
def beside(*arguments: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process of its own, which is killed at the end. What it says is in the file ``output``."""
    environment = {name: value for name, value in os.environ.items() if name not in PLACES}
    command = [sys.executable, "-m", "choreo", *arguments]
    with output.open("wb") as said:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
