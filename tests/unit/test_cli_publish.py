"""`choreo publish`: what cannot be an event is not sent, and what may have been a mistake is said."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from choreo import DeadLetter, Envelope, InvalidEventError, Reason
from choreo.cli import app as command_line
from choreo.cli.publish import publish
from choreo.errors import StoreError
from choreo.store.presence import Program
from choreo.testing import Stage, stage
from tests.unit.events import OrderConfirmed, envelope
from tests.unit.stage import Stage as StageOfOne
from tests.unit.stage import service

VOCABULARY = """
from pydantic import Field
from typing import Annotated
from choreo import Event, Redacted, Service

class ParcelWeighed(Event):
    weight_grams: int
    sender_name: str = Field("", alias="senderName")

class ParcelLost(Event):
    pass

class ParcelSealed(Event):
    code: Annotated[str, Redacted]

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
        ("parcel.sealed", '{"code": "***"}', "  code reads ***, which stands for a redacted value and is none"),
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
        (
            ["", "staging"],
            "in the namespace '' (the default) (--namespace ''), the namespace 'staging' (--namespace staging).",
        ),
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


# -- in the story of another event ----------------------------------------------------------------------------------


def test_an_event_can_follow_from_one_that_was_handled(platform):
    run("parcel.weighed", "--subject", "P-1", "--data", GOOD, "--meta", "tenant=acme")
    platform.run()
    (weighed,) = platform.events

    said = run("parcel.lost", "--caused-by", weighed.id).output

    lost = platform.events[-1]
    assert (lost.correlation_id, lost.causation_id, lost.hops) == (weighed.id, weighed.id, 1)
    assert lost.subject == "P-1"
    assert f"It follows from parcel.weighed P-1, in the story {weighed.id}" in said
    assert "has no subject" not in said
    [repair] = command_line.command_line_service().repairs.recent()
    assert (repair.action, repair.target) == ("announced", "parcel.lost P-1")
    assert (repair.reason, "@" in repair.who) == ("caused by parcel.weighed P-1", True)


def test_the_hops_are_counted_back_to_the_first_event(platform):
    run("parcel.weighed", "--subject", "P-1", "--data", GOOD)
    platform.run()
    first = platform.events[0]
    run("parcel.weighed", "--subject", "P-2", "--data", GOOD, "--caused-by", first.id)
    platform.run()

    # The record does not know which handler made the second event: none did.
    run("parcel.lost", "--caused-by", platform.events[1].id)

    assert [event.hops for event in platform.events] == [0, 1, 1]
    assert {event.correlation_id for event in platform.events} == {first.id}
    assert platform.events[2].subject == "P-2"


def test_an_event_can_follow_from_a_dead_letter(platform):
    app = next(iter(platform._runtimes))
    run("parcel.weighed", "--subject", "P-1", "--data", GOOD, "--meta", "tenant=acme")
    (weighed,) = platform.events
    letter = DeadLetter(
        "scale", "scale.note", Reason.REFUSED, "no", app.publisher.message_for(weighed), envelopes=(weighed,)
    )
    app.runtime.store.register(["scale.note"])
    app.runtime.store.add_letter("scale.note", letter.id, letter.to_json())

    run("parcel.lost", "--caused-by", letter.id, "--subject", "P-9")

    lost = platform.events[-1]
    assert (lost.causation_id, lost.subject, lost.extensions) == (weighed.id, "P-9", {"tenant": "acme"})


def test_an_unknown_cause_is_refused_before_anything_is_sent(platform):
    said = run("parcel.lost", "--caused-by", "ORD-1", code=2).output

    assert "nothing is known of an event or a dead letter 'ORD-1'" in said
    assert platform.events == []


def test_a_handler_takes_no_other_cause():
    app = service("payment")
    stage = StageOfOne(app)

    @app.on("#")
    def note(event: Envelope) -> None:
        with pytest.raises(InvalidEventError, match="the event in hand is the cause"):
            app.publish(OrderConfirmed(), caused_by=event)

    stage.deliver(OrderConfirmed())
    assert (stage.events, stage.dead_letters) == ([], [])


def test_a_delayed_event_can_have_a_cause():
    app = service("payment")
    stage = StageOfOne(app)

    app.publish(OrderConfirmed(), delay=10, caused_by=envelope(OrderConfirmed(), hops=4, extensions={"tenant": "acme"}))
    stage.advance(seconds=11)

    (sent,) = stage.events
    assert (sent.correlation_id, sent.causation_id, sent.hops, sent.subject) == ("story-1", "e-1", 5, "ORD-1")
    assert sent.extensions == {"tenant": "acme"}


def test_of_several_packages_the_one_whose_services_are_known_is_taken(
    platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "bench_of_the_test.py").write_text(VOCABULARY)
    monkeypatch.chdir(tmp_path)
    arguments = ["parcel.lost", "--subject", "P-1"]
    refused = CliRunner().invoke(publish, arguments)
    assert "several packages know parcel.lost: bench_of_the_test, depot_of_the_test. Name one." in refused.output
    store = next(iter(platform._runtimes)).runtime.store
    worker = Program("depot@one/1", "depot@one", pool="solo", module="depot_of_the_test")
    store.report("depot", worker, "{}", 60)

    said = CliRunner().invoke(publish, arguments)

    assert said.exit_code == 0, said.output
    assert [event.type for event in platform.events] == ["parcel.lost"]
