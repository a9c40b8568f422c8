"""`choreo web`: who may reach it, and what it says if it cannot start."""

import socket
import sys

import pytest

from choreo import Service
from choreo.cli.web import _access
from tests.commands import environment, run  # noqa: F401 - the fixture is for every test here


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list:
    """The sites that were served."""
    served: list = []
    app = Service("command_line", config=None, broker="memory://", set_as_current=False)
    app.conf.choreo_store_url = "memory:"
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
    return served


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "ops.example.com"])
def test_others_need_a_password(host):
    result = run("web", "--host", host, "--port", "0", code=2)

    assert "CHOREO_WEB_PASSWORD" in result.output
    assert host in result.output


def test_this_machine_needs_none():
    access = _access("127.0.0.1", None, ())

    assert access.knows("localhost")
    assert not access.knows("10.0.0.5")
    assert access.lets_in("")


def test_a_name_that_was_given_is_known():
    access = _access("0.0.0.0", "sesame", ("Ops.Example.com",))

    assert access.knows("ops.example.com")
    assert access.knows("10.0.0.5")
    assert not access.knows("evil.example")
    assert not access.lets_in("")


def test_without_tornado_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tornado", None)

    assert "pip install 'celery-choreo[web]'" in run("web", "--port", "0", code=1).output


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("web", "--port", port, code=1)

    assert f"127.0.0.1:{port}" in result.output
    assert "--port" in result.output
