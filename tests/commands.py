"""Running `choreo` in this process, for tests of the command line."""

import os
import sys

import pytest
from click.testing import CliRunner, Result

from choreo.cli import choreo


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
