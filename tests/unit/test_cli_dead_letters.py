"""`choreo dead-letters`: readable at 80 columns, as JSON, and careful with what it forgets."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from choreo import DeadLetter, PermanentFailure, Retry, Service
from choreo.cli import choreo
from choreo.cli.dead_letters import dead_letters, headlines
from choreo.delivery.dead_letter import Reason
from choreo.delivery.notice import park
from choreo.errors import EnvelopeError
from choreo.events.message import Message
from tests.unit.events import OrderPlaced, PaymentCharged, PaymentFailed, envelope
from tests.unit.stage import Stage, service
from tests.unit.test_printing import HOSTILE

CHARGE = "payment.charge_the_customer"


def make_service() -> Service:
    app = service("payment", retry=Retry(times=0))

    @app.on(OrderPlaced)
    def charge_the_customer(order: OrderPlaced) -> None:
        raise PermanentFailure(f"{order.customer_id} has no account")

    @app.on(PaymentCharged)
    def thank(charged: PaymentCharged) -> None:
        raise ValueError("no words")

    return app


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(make_service())
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)
    return stage


def run(*arguments: str, code: int = 0, **options) -> Result:
    result = CliRunner().invoke(dead_letters, arguments, **options)
    assert result.exit_code == code, result.output
    return result


def failed(stage: Stage, subject: str = "ORD-1") -> DeadLetter:
    """A dead letter of an order about this subject."""
    stage.deliver(envelope(OrderPlaced(customer_id="alice"), subject=subject, id=f"e-{subject}"), CHARGE)
    return next(letter for letter in stage.dead_letters if letter.subject == subject)


def unreadable(stage: Stage) -> DeadLetter:
    message = Message("", CHARGE, b'{"not": "an event\xff"}', {"task": CHARGE})
    park(stage.app.runtime, CHARGE, message, EnvelopeError("id is None, not a text"))
    (letter,) = stage.dead_letters
    return letter


# -- list ------------------------------------------------------------------------------------------------------------


def test_where_nothing_has_failed_the_list_says_so(stage):
    assert run("list").stdout == "No dead letters.\n"
    assert run("list", "payment").stdout == "No dead letters of payment.\n"
    assert run("list", "--json").stdout == ""


def test_dead_letters_are_listed_oldest_first_and_none_is_cut(stage):
    first, second = failed(stage), failed(stage, "an order with quite a long name")

    said = run("list").stdout

    heading, *lines, empty, footer = said.splitlines()
    rows, errors = lines[::2], lines[1::2]
    assert heading == "ID          WHEN (UTC)   REASON      HANDLER: EVENT"
    assert [row.split()[0] for row in rows] == [first.id, second.id]
    assert rows[0].endswith(f"refused     {CHARGE}: order.placed ORD-1")
    assert rows[1].endswith(f"{CHARGE}: order.placed an order with quite a long name")
    assert first.failed_at.strftime("%m-%d %H:%M") in rows[0]
    assert errors == [f"{'':12}PermanentFailure: alice has no account"] * 2
    assert (empty, footer) == ("", "2 in all. `choreo dead-letters show ID` tells more.")


def test_a_terminal_gets_the_list_within_80_columns(stage, monkeypatch):
    failed(stage, "an order with quite a long name")
    monkeypatch.setattr("choreo.cli.folding.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("COLUMNS", "80")

    lines = run("list").stdout.splitlines()

    assert lines[1].endswith(f"refused     {CHARGE}: order.placed")
    assert lines[2] == f"{' ' * 37}an order with quite a long name"
    assert all(len(line) <= 80 for line in lines)


def test_a_pipe_with_columns_gets_the_list_within_them_and_only_the_error_is_cut(stage, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    subject = "an order with quite a long name and-a-last-word-that-is-long-as-well"
    event = envelope(OrderPlaced(customer_id="a" * 99), subject=subject)
    stage.deliver(event, CHARGE)

    lines = run("list").stdout.splitlines()

    assert all(len(line) <= 80 for line in lines)
    assert " ".join(" ".join(lines[1:4]).split()).endswith(f"order.placed {subject}")
    assert lines[4] == f"{'':12}PermanentFailure: {'a' * 47}..."


def test_a_long_list_goes_on_where_it_ended_also_when_letters_are_gone_meanwhile(stage):
    letters = []
    for number in range(5):
        letters.append(failed(stage, f"ORD-{number}"))
        stage.wait(1)

    *_, more, empty, footer = run("list", "payment", "--limit", "2").stdout.splitlines()
    assert (empty, footer) == ("", "2 of 5. `choreo dead-letters show ID` tells more.")
    run("discard", letters[1].id, "--yes")
    second = run(*more.removeprefix("More: choreo dead-letters ").split()).stdout

    assert [letter.id in second for letter in letters] == [False, False, True, True, False]
    *_, more, _, footer = second.splitlines()
    third = run(*more.removeprefix("More: choreo dead-letters ").split()).stdout
    assert letters[4].id in third
    assert "More:" not in third
    result = run("list", "--limit", "2", "--json")
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.startswith("More: choreo dead-letters list --limit 2 --after ")
    assert len(run("list", "--limit", "0", "--json").stdout.splitlines()) == 4


def test_a_list_is_limited_to_fifty(stage):
    letter = failed(stage)
    for number in range(60):
        copy = replace(letter, id=f"{number:010}")
        stage.app.runtime.store.add_letter(CHARGE, copy.id, copy.to_json())

    lines = run("list").stdout.splitlines()

    assert lines[-1].startswith("50 of 61.")
    assert lines[-3].startswith("More: choreo dead-letters list --after ")
    assert all(len(line) <= 80 for line in lines if line.startswith("More"))


def test_a_list_can_be_of_some_services_or_handlers_only(stage):
    letter = failed(stage)
    stage.deliver(envelope(PaymentCharged(), subject="ORD-2"), "payment.thank")

    assert letter.id in run("list", CHARGE).stdout
    assert "1 in all" in run("list", CHARGE).stdout
    assert "2 in all" in run("list", "payment").stdout


def test_a_letter_whose_run_never_began_says_so(stage):
    letter = replace(failed(stage), reason=Reason.REVOKED, attempts=0)

    assert "reason:      revoked, before its first attempt" in headlines(letter)


def test_a_list_as_json_is_one_object_a_line_that_can_be_read_back(stage):
    first, second = failed(stage), failed(stage, "ORD-2")

    lines = run("list", "--json").stdout.splitlines()

    assert [DeadLetter.from_json(line) for line in lines] == [first, second]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_unknown_service_is_refused_with_the_one_that_was_meant(stage, options):
    said = run("list", "paymnt", *options, code=1).output

    assert "No service or handler named 'paymnt' is known. Did you mean payment?" in said


def test_a_service_that_is_like_no_other_is_refused_with_those_that_are_known(stage):
    said = run("list", "payment", "xyz", code=1).output

    assert "No service or handler named 'xyz' is known. Known are: payment, payment.charge_the_customer" in said
    assert "A service makes itself known when its worker starts." in said


# -- show ------------------------------------------------------------------------------------------------------------


def test_a_letter_is_shown_whole(stage):
    letter = failed(stage)

    said = run("show", letter.id).stdout

    assert said.startswith(
        f"dead letter: {letter.id}\n"
        f"handler:     {CHARGE}\n"
        f"group:       {letter.group}\n"
        f"reason:      refused, after 1 attempt\n"
        f"error:       PermanentFailure: alice has no account\n"
        f"failed at:   {letter.failed_at.isoformat(timespec='seconds')}\n"
        f"\n"
        f"order.placed ORD-1  (id e-ORD-1, from order)\n"
        f'  {{\n    "customer_id": "alice",\n    "total_cents": 0\n  }}\n'
    )
    assert 'raise PermanentFailure(f"{order.customer_id} has no account")' in said
    assert json.loads(run("show", letter.id, "--json").stdout)["id"] == letter.id


def test_a_letter_is_shown_within_80_columns(stage):
    event = envelope(
        OrderPlaced(customer_id="al ice" * 20), subject="ORD-1", id="e" * 36, source="a-source-of-20-chars"
    )
    stage.deliver(event, CHARGE)
    (letter,) = stage.dead_letters

    said = run("show", letter.id).stdout.partition("Traceback")[0]

    assert f"\norder.placed ORD-1\n  (id {'e' * 36}, from a-source-of-20-chars)\n" in said
    assert all(len(line) <= 80 for line in said.splitlines() if "customer_id" not in line)


def test_the_metadata_of_its_event_is_shown(stage):
    event = envelope(OrderPlaced(customer_id="alice"), id="e-1", extensions={"tenant": "ac\x1bme", "shard": 7})
    stage.deliver(event, CHARGE)
    (letter,) = stage.dead_letters

    said = run("show", letter.id).stdout

    assert "(id e-1, from order)\n  with tenant=ac\\x1bme\n  with shard=7\n  {\n" in said


def test_of_what_could_not_be_read_every_byte_is_shown(stage):
    letter = unreadable(stage)

    said = run("show", letter.id).stdout

    assert "reason:      unreadable, after 1 attempt\n" in said
    assert "error:       id is None, not a text\n" in said
    assert 'The message:\n  {"not": "an event\\xff"}\n' in said


def test_of_an_event_that_could_not_be_read_the_way_out_names_what_to_deploy(stage):
    event = envelope(PaymentFailed(reason="no card"), source="bank", version=3)
    park(stage.app.runtime, CHARGE, Message("", CHARGE, b"{}"), EnvelopeError("it does not fit"), (event,))
    (letter,) = stage.dead_letters

    said = " ".join(run("show", letter.id).stdout.split())

    assert "way out: deploy code of payment that reads what bank announces as payment.failed version 3" in said


# -- replay and discard ----------------------------------------------------------------------------------------------


def test_a_replayed_letter_goes_back_to_its_handler_and_is_gone(stage):
    letter = failed(stage)

    said = run("replay", letter.id).stdout

    assert said == f"{letter.id}: order.placed ORD-1 goes to {CHARGE} again.\n"
    assert stage.dead_letters == []
    stage.pass_time(0)
    (again,) = stage.dead_letters
    assert again.id != letter.id
    assert again.envelopes == letter.envelopes


def test_a_letter_of_a_handler_that_is_gone_is_listed_as_such_and_goes_where_it_is_sent(stage):
    park(
        stage.app.runtime,
        "payment.charge",
        Message("", "x", b"?"),
        EnvelopeError("?"),
        (envelope(OrderPlaced(customer_id="eve")),),
    )
    stage.store.register(["payment.charge"])
    (letter,) = stage.dead_letters

    listed = run("list")
    refused = run("replay", letter.id, code=1).output
    said = run("replay", letter.id, "--to", CHARGE).stdout

    assert "No worker declares payment.charge any more: renamed or removed?" in listed.stderr
    assert f"`choreo dead-letters replay {letter.id} --to {CHARGE}`" in refused
    assert said == f"{letter.id}: order.placed ORD-1 goes to {CHARGE}.\n"
    stage.pass_time(0)
    assert [found.handler for found in stage.dead_letters] == [CHARGE]


def test_a_replay_to_a_service_that_does_not_run_says_so(stage):
    letter = failed(stage)
    stage.store.declare("payment", "stage", (), 0)

    result = run("replay", letter.id)

    assert "goes to" in result.stdout
    assert "no worker of payment runs at the moment" in result.stderr


def test_a_letter_is_replayed_once(stage):
    letter = failed(stage)
    run("replay", letter.id)

    said = run("replay", letter.id, code=1).output

    assert f"There is no dead letter {letter.id!r}. `choreo dead-letters list` shows all of them." in said


@pytest.mark.parametrize("command", [["replay"], ["discard", "--yes"]])
def test_one_letter_that_is_unknown_keeps_no_other_from_its_way(stage, command):
    first, second = failed(stage), failed(stage, "ORD-2")

    result = run(*command, first.id, "nonesuch", "another", second.id, second.id, code=1)

    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [first.id, second.id]
    assert [line[:41] for line in result.stderr.splitlines()] == [
        "Error: There is no dead letter 'nonesuch'",
        "Error: There is no dead letter 'another'.",
    ]
    assert stage.dead_letters == []


def test_a_letter_is_discarded_after_a_question(stage):
    letter = failed(stage)

    asked = run("discard", letter.id, input="n\n").stdout
    assert f"Forget {letter.id} ({CHARGE}: order.placed ORD-1) for good? [y/N]" in asked
    assert stage.dead_letters == [letter]

    assert f"{letter.id}: forgotten." in run("discard", letter.id, input="y\n").stdout
    assert stage.dead_letters == []


def test_a_letter_is_discarded_without_a_question_if_that_is_wanted(stage):
    letter = failed(stage)

    assert run("discard", letter.id, "--yes").stdout == f"{letter.id}: forgotten.\n"
    assert stage.dead_letters == []


@pytest.mark.parametrize("command", [["show"], ["replay"], ["discard", "--yes"]])
def test_an_unknown_letter_is_one_line(stage, command):
    said = run(*command, "nonesuch", code=1)

    assert said.stderr == ("Error: There is no dead letter 'nonesuch'. `choreo dead-letters list` shows all of them.\n")


def test_the_command_is_there():
    assert CliRunner().invoke(choreo, ["dead-letters", "--help"]).exit_code == 0


# -- hostile text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_in_a_letter_acts_on_no_terminal_and_hides_no_letter(stage, text):
    event = envelope(OrderPlaced(customer_id=text), subject=text, id=f"e-{text}", source=text)
    message = Message("", "q", b"x", {"argsrepr": text})
    fault = ValueError(text)
    letter = DeadLetter(
        "payment", CHARGE, Reason.REFUSED, str(fault), message, traceback=f"Traceback:\n{text}", envelopes=(event,)
    )
    stage.app.runtime.store.add_letter(CHARGE, letter.id, letter.to_json())
    stage.app.runtime.store.register([CHARGE])
    other = failed(stage)

    for command in (("list",), ("show", letter.id), ("list", "--json"), ("show", letter.id, "--json")):
        said = run(*command).stdout
        said.encode()
        assert all(line.isprintable() for line in said.split("\n")), said
    assert {letter.id, other.id} <= {row.split()[0] for row in run("list").stdout.splitlines() if row}
    if "\ud800" not in text:  # no message can hold that
        assert run("replay", letter.id).stdout.rstrip("\n").isprintable()


def test_hostile_text_in_an_argument_is_shown_plainly(stage):
    for arguments in (("show", "\x1b]0;x"), ("list", "\x1b]0;x"), ("list", "pay\ud800")):
        said = run(*arguments, code=1).output
        assert all(line.isprintable() for line in said.split("\n")), said


def test_a_letter_of_a_handler_that_the_store_does_not_know_is_shown(stage):
    message = Message("", "nobody.knows", b"x", {"task": "nobody.knows"})
    park(stage.app.runtime, "nobody.knows", message, EnvelopeError("no event"))

    assert "nobody.knows: something unreadable" in run("list").stdout
    assert "nobody.knows" in stage.app.backlog()


@pytest.mark.parametrize(
    "odd", [{"reason": "bored"}, {"new": 1}, {"message": 5}, {"failed_at": None}, {"envelopes": [5]}]
)
def test_a_letter_of_another_version_is_shown_and_hides_no_other(stage, odd):
    known = failed(stage)
    letter = json.loads(failed(stage, "ORD-2").to_json()) | {"id": "0123456789"} | odd
    stage.app.runtime.store.add_letter(CHARGE, "0123456789", json.dumps(letter))

    listed = run("list").stdout
    assert known.id in listed
    assert "0123456789" in listed
    assert "this version cannot read it" in run("show", "0123456789").stdout
    assert "The version that wrote it can" in run("replay", "0123456789", code=1).output
    run("discard", "0123456789", "--yes")
    assert "0123456789" not in run("list").stdout
