"""Where the command line looks for broker and store, and what it says when they are not said right."""

import os

import pytest

from choreo import Service
from choreo.cli.app import command_line_service
from choreo.cli.where import Where
from tests.commands import environment, run  # noqa: F401 - the fixture is for every test here


@pytest.fixture
def spoken_to(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, str | None]]:
    """Broker and store of each service that a command was given."""
    said: list[tuple[str | None, str | None]] = []

    def note(where: Where) -> Service:
        said.append((where.broker, where.store))
        app = Service("command_line", config=None, broker="memory://", set_as_current=False)
        app.conf.choreo_store_url = "memory:"
        return app

    monkeypatch.setattr("choreo.cli.app.command_line_service", note)
    return said


@pytest.mark.parametrize("group", ["dead-letters", "joins"])
def test_broker_and_store_can_be_said_before_the_command_and_behind_it(spoken_to, group):
    run(group, "--broker", "redis://a", "--store", "redis://b", "list", code=0)
    run(group, "list", "--broker", "redis://a", "--store", "redis://b", code=0)
    run(group, "--broker", "redis://z", "list", "--broker", "redis://a", "--store", "redis://b", code=0)
    run("--broker", "redis://a", "--store", "redis://z", group, "--store", "redis://b", "list", code=0)

    assert spoken_to == [("redis://a", "redis://b")] * 4


def test_what_is_said_goes_before_the_environment(spoken_to, monkeypatch):
    monkeypatch.setenv("CHOREO_BROKER_URL", "redis://environment")
    monkeypatch.setenv("CHOREO_STORE_URL", "redis://environment-too")

    run("joins", "list", code=0)
    run("joins", "--broker", "redis://a", "list", code=0)
    run("joins", "list", "--store", "redis://b", code=0)

    assert spoken_to == [
        ("redis://environment", "redis://environment-too"),
        ("redis://a", "redis://environment-too"),
        ("redis://environment", "redis://b"),
    ]


@pytest.mark.parametrize("command", [["dead-letters", "list"], ["joins", "list"], ["publish", "order.placed"]])
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nonsense", "nonsense"),
        ("localhost:6379", "localhost:6379"),
        ("rediss//alice:secret@host", "rediss:**@host"),
        ("htp://alice:secret@host", "htp://alice:**@host"),
        ("redis://:secret@host:port/0", "redis://:**@host:port/0"),
        ("redis://host:port/0?password=secret", "redis://host:port/0"),
        ("redis://host:port/0?password=secret@host", "redis://host:**@host"),
    ],
)
def test_what_is_no_url_is_refused_by_its_name_and_without_its_password(command, url, shown):
    said = run(*command, "--broker", url, code=2).stderr
    assert f"Invalid value for --broker / CHOREO_BROKER_URL: {shown!r} is not a URL of a broker. Write one" in said

    said = run(*command, "--store", url, code=2).stderr
    assert f"Invalid value for --store / CHOREO_STORE_URL: {shown!r} is not a URL of a store. Write one" in said


def test_a_wrong_url_in_the_environment_is_refused_too(monkeypatch):
    monkeypatch.setenv("CHOREO_BROKER_URL", "nonsense")

    assert "'nonsense' is not a URL of a broker" in run("joins", "list", code=2).stderr


def test_a_store_that_nobody_has_named_can_be_said_on_the_command_line():
    said = run("dead-letters", "list", "--broker", "amqp://nowhere", code=1).stderr

    assert "this broker is no Redis. Say where it is: choreo_store_url" in said
    assert "Or name it here: --store / CHOREO_STORE_URL." in said


def test_the_option_goes_before_celerys_own_variables(spoken_to, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://celery")
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "redis://celery")
    where = Where(broker="redis://a", options=frozenset({"broker"}))

    with where.in_environment():
        app = command_line_service(where)
        assert (app.conf.broker_read_url, app.conf.broker_write_url) == ("redis://a", "redis://a")
    assert os.environ["CELERY_BROKER_WRITE_URL"] == "redis://celery"


@pytest.mark.parametrize("group", [(), ("dead-letters",), ("joins",)])
def test_no_line_of_the_help_of_a_group_is_cut(group):
    said = run(*group, "--help", code=0).output

    commands = said.partition("Commands:\n")[2].splitlines()
    assert len(commands) >= 4
    assert [line for line in commands if line.endswith("...")] == []
    assert max(map(len, said.splitlines())) <= 80
