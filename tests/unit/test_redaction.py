"""Redacted fields: handlers get their values, and people do not see them."""

import json
import logging
from typing import Annotated, Any

import pytest
from click.testing import CliRunner
from pydantic import BaseModel, Field

from choreo import Context, Envelope, Event, PermanentFailure, Redacted, Retry, RetryLater
from choreo.cli import choreo
from choreo.errors import InvalidEventError
from choreo.events.message import Message
from choreo.events.redaction import MASK, REDACTED, hidden, marks_of, redacted, redacted_message, restored, without
from choreo.store.parts import demanded
from choreo.web.site import Site
from tests.unit.browser import Browser
from tests.unit.events import NOON, envelope
from tests.unit.stage import Stage, service

NUMBER, PHONE = "4000-1234-5678", "+49 30 1234567"


class Card(BaseModel):
    number: Annotated[str, Redacted]
    brand: str = "visa"


class Person(BaseModel):
    name: str = ""
    phone: Annotated[str | None, Redacted] = Field(default=None, alias="phoneNumber")


class CardStored(Event):
    customer_id: str
    card: Card
    backups: list[Card] = []
    others: dict[str, Card] = {}
    pin: Annotated[int, Redacted()] = 0
    codes: list[Annotated[str, Redacted]] = []
    owner: Person | None = None


STORED = CardStored(
    customer_id="alice",
    card=Card(number=NUMBER),
    backups=[Card(number="5000-1"), Card(number="5000-2")],
    others={"work": Card(number="6000-1")},
    pin=123456,
    codes=["code-1", "code-2"],
    owner=Person(name="Alice", phoneNumber=PHONE),
)


def sealed(event: Event) -> Envelope:
    return event.sealed(id="e-1", source="shop", subject="ORD-1", cause=None, time=NOON)


def test_an_event_names_its_redacted_fields_by_their_names_on_the_wire():
    assert json.loads(marks_of(CardStored)) == [
        ["card", "number"],
        ["backups", "number"],
        ["others", "*", "number"],
        ["pin"],
        ["codes"],
        ["owner", "phoneNumber"],
    ]
    assert sealed(STORED).extensions[REDACTED] == marks_of(CardStored)


def test_people_see_all_but_these_fields():
    seen = redacted(Envelope.from_wire(json.loads(json.dumps(sealed(STORED).to_wire()))))

    assert seen.data == {
        "customer_id": "alice",
        "card": {"number": MASK, "brand": "visa"},
        "backups": [{"number": MASK, "brand": "visa"}] * 2,
        "others": {"work": {"number": MASK, "brand": "visa"}},
        "pin": MASK,
        "codes": [MASK, MASK],
        "owner": {"name": "Alice", "phoneNumber": MASK},
    }
    assert redacted(sealed(CardStored(customer_id="a", card=Card(number="1"), owner=Person()))).data["owner"] == {
        "name": "",
        "phoneNumber": None,
    }


def test_an_event_without_such_fields_is_seen_as_it_is():
    plain = envelope(TextSent())

    assert redacted(plain) is plain
    assert REDACTED not in sealed(TextSent()).extensions


class TextSent(Event):
    text: str = "hello"


def test_the_repr_of_an_event_and_of_a_model_in_it_does_not_show_them():
    assert NUMBER not in repr(STORED)
    assert PHONE not in repr(STORED)
    assert "123456" not in str(STORED)
    assert "brand='visa'" in repr(STORED)


@pytest.mark.parametrize("marks", ["[" * 100_000, "[[", "{}", '["a"]', "5", ""])
def test_marks_that_cannot_be_read_hide_all_fields(marks):
    event = envelope(TextSent(), extensions={REDACTED: marks})

    assert redacted(event).data == {"text": MASK}


def test_the_message_of_a_dead_letter_does_not_show_them_either():
    message = Message.carrying(sealed(STORED), exchange="", routing_key="q")

    seen = redacted_message(message).body.decode()
    assert NUMBER not in seen
    assert "alice" in seen
    demand = Message.carrying(demanded(envelope(TextSent()), sealed(STORED)), exchange="", routing_key="q")
    assert NUMBER not in redacted_message(demand).body.decode()
    assert NUMBER not in json.dumps(redacted(demanded(envelope(TextSent()), sealed(STORED))).to_wire())


def test_a_person_who_edits_what_is_not_shown_keeps_it():
    event = sealed(STORED)
    seen = redacted(event).data
    seen["customer_id"], seen["codes"] = "bob", ["new", MASK]

    whole = restored(seen, event)
    assert (whole["customer_id"], whole["codes"], whole["pin"]) == ("bob", ["new", "code-2"], 123456)
    assert whole["backups"] == event.data["backups"]
    assert whole["others"] == event.data["others"]


def test_the_values_are_taken_out_of_a_text():
    values = hidden([sealed(STORED)])

    assert without(f"no card {NUMBER}, pin 123456, {PHONE!r}", values) == f"no card {MASK}, pin {MASK}, '{MASK}'"
    assert {"5000-1", "code-1"} <= set(values)


class NumberRefused(Exception):
    pass


@pytest.fixture
def stage(monkeypatch) -> Stage:
    app, got = service(), []

    @app.on(CardStored, retry=Retry(times=1))
    def check(stored: CardStored, context: Context) -> None:
        got.append(stored.card.number)
        if context.attempt == 1:
            raise RetryLater(5) from NumberRefused(f"{stored.card.number} is away")
        raise PermanentFailure(f"the bank refuses {stored.card.number}") from NumberRefused(stored.card.number)

    stage = Stage(app)
    stage.got = got
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: stage.app)
    return stage


def run(*arguments: str) -> str:
    done = CliRunner().invoke(choreo, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_neither_logs_nor_letters_nor_lists_show_what_the_handler_gets(stage, caplog):
    with caplog.at_level(logging.DEBUG):
        stage.publish(STORED, subject="ORD-1")
        stage.advance(minutes=1)

    assert stage.got == [NUMBER, NUMBER]
    (letter,) = stage.dead_letters
    assert letter.error == f"PermanentFailure: the bank refuses {MASK}"
    assert MASK in letter.traceback
    (alert,) = [event for event in stage.events if event.type == "dead_letter.recorded"]
    told = [caplog.text, letter.error, letter.traceback, json.dumps(alert.to_wire())]
    told += [run("dead-letters", "show", letter.id), run("dead-letters", "show", letter.id, "--json")]
    told += [run("dead-letters", "export"), run("dead-letters", "list", "--json")]
    told += [run("trace", "ORD-1", "--data"), run("trace", "ORD-1", "--data", "--json")]
    assert [text for text in told if NUMBER in text] == []

    assert NUMBER in run("dead-letters", "show", letter.id, "--reveal")
    assert NUMBER in run("dead-letters", "export", "--reveal")
    stage.app.dead_letters.replay(letter.id)
    stage.run()
    assert stage.got == [NUMBER] * 3


def test_no_page_shows_it_and_an_edit_there_keeps_it(stage):
    site = Site(stage.app, allows_changes=True)
    browser = Browser(site)
    stage.app.conf.choreo_allow_edit = True
    stage.publish(STORED, subject="ORD-1")
    stage.advance(minutes=1)
    (letter,) = stage.dead_letters

    pages = [browser.get(f"/dead-letters/{letter.id}"), browser.get("/stories", q="ORD-1", all="1")]
    assert [(page.status, NUMBER in page.text, MASK in page.text) for page in pages] == [(200, False, True)] * 2
    seen = json.dumps(letter.redacted.envelopes[0].data | {"customer_id": "bob"})
    browser.post(f"/dead-letters/{letter.id}", do="edit", reason="a typo", data=seen)
    stage.run()
    assert stage.got == [NUMBER] * 3
    site.close()


def test_an_edit_of_another_field_keeps_the_value(stage):
    stage.app.conf.choreo_allow_edit = True
    stage.publish(STORED, subject="ORD-1")
    stage.advance(minutes=1)
    (letter,) = stage.dead_letters

    output = run("dead-letters", "edit", letter.id, "--set", "customer_id=bob", "--reason", "typo", "--yes")
    assert 'customer_id: "alice" -> "bob"' in output
    output = run("dead-letters", "edit", stage_letter(stage), "--set", "pin=999999", "--reason", "pin", "--yes")
    assert f'pin: "{MASK}" -> "{MASK}"' in output
    stage.run()
    assert set(stage.got) == {NUMBER}


def stage_letter(stage: Stage) -> str:
    stage.advance(minutes=1)
    return stage.dead_letters[0].id


def test_an_event_that_cannot_be_written_does_not_show_the_value():
    class OddStored(Event):
        value: Annotated[Any, Redacted]

    with pytest.raises(InvalidEventError) as error:
        sealed(OddStored(value=object()))
    assert "OddStored.value cannot be announced" in str(error.value)
    assert "<object" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"backups": [{"number": MASK}]},
        {"others": {"home": {"number": MASK}}},
        {"owner": {"name": "Alice", "phoneNumber": MASK}, "customer_id": "bob"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_mask_without_a_value_behind_it_is_never_taken_for_one(change):
    event = sealed(STORED.model_copy(update={"owner": None}))

    with pytest.raises(ValueError, match=r"reads \*\*\*, which stands for a redacted value and is none"):
        restored(event.data | change, event)


def test_an_edit_that_would_hand_a_mask_to_the_handler_is_refused(stage):
    stage.app.conf.choreo_allow_edit = True
    stage.publish(STORED, subject="ORD-1")
    letter = stage_letter(stage)
    data = json.dumps(sealed(STORED).data | {"backups": [{"number": MASK}]})

    done = CliRunner().invoke(choreo, ["dead-letters", "edit", letter, "--data", data, "--reason", "x", "--yes"])

    assert (done.exit_code, stage_letter(stage)) == (1, letter)
    assert "backups.number reads ***" in done.output


def test_a_rerun_with_the_fields_that_trace_shows_has_the_values(stage):
    seen, got = [], []

    @stage.app.on(CardStored)
    def note(stored: CardStored) -> None:
        got.append(stored)

    stage = Stage(stage.app)
    event = stage.publish(STORED, subject="ORD-1")
    stage.advance(minutes=1)
    seen = redacted(stage.dead_letters[0].envelopes[0]).data | {"customer_id": "bob"}

    plan = stage.app.rerun("payment.note", event.id, data=seen)
    stage.run()

    assert plan.event.id == event.id
    assert [stored.customer_id for stored in got] == ["alice", "bob"]
    assert got[1].card == got[0].card


@pytest.mark.parametrize("body", [b"[" * 100_000, b'[["\xff"]]'], ids=["too deep", "no UTF-8"])
def test_a_letter_whose_message_cannot_be_read_is_shown_without_its_text(body):
    assert redacted_message(Message("", "q", b"[" + body + REDACTED.encode(), {})).body == MASK.encode()
