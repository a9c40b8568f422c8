"""`choreo publish`: what cannot be an event is not sent, and what may have been a mistake is said."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from choreo import Envelope
from choreo.cli.publish import publish
from choreo.errors import StoreError
from choreo.testing import Stage, stage
from tests.unit.stage import service

VOCABULARY = """
from pydantic import Field
from choreo import Event, Service

class ParcelWeighed(Event):
    weight_grams: int
    sender_name: str = Field("", alias="senderName")

class ParcelLost(Event):
    pass

app = Service("depot", config=None, set_as_current=False)
"""
GOOD = '{"weight_grams": 5, "senderName": "alice"}'


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Gets what is sent by the command, which knows the vocabulary of the package `depot_of_the_test`."""
    (tmp_path / "depot_of_the_test.py").write_text(VOCABULARY)
    monkeypatch.syspath_prepend(tmp_path)
    app, scale = service("command_line"), service("scale")

    @scale.on("parcel.weighed")
    def note(event: Envelope) -> None: ...

    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
    with stage(app, scale) as platform:
        yield platform
    sys.modules.pop("depot_of_the_test", None)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(publish, [*arguments, "--package", "depot_of_the_test"])
    assert result.exit_code == code, result.output
    return result


def test_an_event_is_announced_under_its_subject(platform):
    result = run("parcel.weighed", "--subject", "P-1", "--data", GOOD)

    (sent,) = platform.events
    assert (sent.type, sent.subject) == ("parcel.weighed", "P-1")
    assert sent.data == {"weight_grams": 5, "senderName": "alice"}
    assert result.stdout == f"parcel.weighed P-1 announced; its id is {sent.id}\n"
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("event_type", "data", "said"),
    [
        ("parcel.wieghed", GOOD, "knows no event 'parcel.wieghed'. Did you mean parcel.weighed?"),
        ("xyz", GOOD, "knows no event 'xyz'. Known are: "),
        ("parcel.weighed", "{weight_grams: 5}", "not JSON: Expecting property name"),
        ("parcel.weighed", "{}", "not a valid parcel.weighed:\n  weight_grams: Field required\n"),
        ("parcel.weighed", '{"weight_grams": "heavy"}', "  weight_grams: Input should be a valid integer"),
        ("parcel.weighed", '{"weight_grams": "heavy"}', ', not "heavy"\n'),
        ("parcel.weighed", '{"weight_grams": "%s"}' % ("x" * 99), f', not "{"x" * 56}...\n'),
        ("parcel.weighed", "[1]", "  data: Input should be a valid dictionary"),
        (
            "parcel.weighed",
            '{"weight_grams": 5, "weight_gram": 6}',
            "  weight_gram: no such field, did you mean weight_grams?\n",
        ),
        (
            "parcel.weighed",
            '{"weight_grams": 5, "bogus": 1}',
            "  bogus: no such field, there are senderName, sender_name",
        ),
        ("parcel.lost", '{"bogus": 1}', "  bogus: no such field, there are none.\n"),
    ],
)
def test_what_cannot_be_the_event_is_refused_and_not_sent(platform, event_type, data, said):
    result = run(event_type, "--subject", "P-1", "--data", data, code=2)

    assert said in result.stderr
    assert platform.events == []


def test_all_faults_of_an_event_are_said_at_once(platform):
    said = run("parcel.weighed", "--data", '{"weigth_grams": 5}', code=2).stderr

    assert "weigth_grams: no such field, did you mean weight_grams?" in said
    assert "weight_grams: Field required" in said


def test_an_event_without_a_subject_is_announced_with_a_warning(platform):
    result = run("parcel.lost")

    assert len(platform.events) == 1
    assert "Warning: parcel.lost has no subject. A join that uses the subject as its key" in result.stderr
    assert "--subject ORD-1" in result.stderr


def test_an_event_that_nobody_hears_is_announced_with_a_question(platform):
    result = run("parcel.lost", "--subject", "P-1")

    assert result.stderr == (
        "Warning: no handler listens to parcel.lost at memory:// (no namespace). Is this the right broker and "
        "namespace? (--broker / CHOREO_BROKER_URL, --namespace / CHOREO_NAMESPACE)\n"
    )


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (["", "staging"], "It is heard in no namespace, the namespace 'staging' (--namespace staging)."),
        (["a", "b", "c", "d", "e", "f"], "the namespace 'd' (--namespace d), and 2 more."),
    ],
)
def test_the_namespaces_that_hear_the_event_are_named(platform, monkeypatch, others, said):
    monkeypatch.setattr("choreo.observe.elsewhere.Elsewhere.hearers", lambda *_: {name: ["kitchen"] for name in others})

    warning = run("parcel.lost", "--subject", "P-1").stderr

    assert warning.startswith("Warning: no handler listens to parcel.lost at memory:// (no namespace). It is heard in ")
    assert warning.endswith(f"{said}\n")


def test_a_store_that_is_away_changes_nothing_about_an_event_that_nobody_hears(platform, monkeypatch):
    def away(*_: object) -> None:
        raise StoreError("it is away")

    monkeypatch.setattr("choreo.observe.elsewhere.Elsewhere.hearers", away)

    assert "Is this the right broker and namespace?" in run("parcel.lost", "--subject", "P-1").stderr


def test_metadata_is_given_by_name(platform):
    run("parcel.weighed", "--subject", "P-1", "--data", GOOD, "--meta", "tenant=acme", "--meta", "note=a=b")

    (sent,) = platform.events
    assert sent.extensions == {"tenant": "acme", "note": "a=b"}


@pytest.mark.parametrize(
    ("given", "fault"), [("tenant", "'tenant' is no NAME=VALUE"), ("tenant_id=acme", "lower-case letters and digits")]
)
def test_metadata_that_cannot_travel_is_refused(platform, given, fault):
    result = run("parcel.weighed", "--data", GOOD, "--meta", given, code=2)

    assert fault in result.output
    assert platform.events == []
