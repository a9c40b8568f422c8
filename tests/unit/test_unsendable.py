"""What waits in a schedule and can never be sent becomes a dead letter, and holds up nothing."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from choreo import Reason
from choreo.delivery import unsendable
from choreo.delivery.notice import park
from choreo.errors import PublishError, StoreError
from choreo.events.message import Message
from choreo.store import DELAYED, Scheduled
from choreo.store.schedule import Unreadable
from tests.unit.events import OrderPlaced, envelope
from tests.unit.stage import Stage, service

HANDLER = "payment.charge"
ORDER = OrderPlaced(customer_id="alice")
#: Seconds for which a message is held back after a refusal.
HELD = 6


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsendable, "MOST_REFUSALS", 3)


@pytest.fixture
def stage() -> Stage:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    stage = Stage(app)
    stage.store.register([HANDLER])
    return stage


class Broker:
    """Takes every message, but none with these routing keys."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch, *refused: str, is_outage: bool = False) -> None:
        self.refused, self.is_outage = set(refused), is_outage
        self.taken: list[Message] = []
        self._stage = stage
        monkeypatch.setattr(stage.publisher, "send", self.send)

    def send(self, messages: Any) -> None:
        messages = list(messages)
        confirmed = [message for message in messages if message.routing_key not in self.refused]
        self.taken += confirmed
        if len(confirmed) < len(messages):
            raise PublishError("there is no such queue", confirmed=confirmed, is_outage=self.is_outage)

    def look(self, times: int, *names: str) -> None:
        """Let the clock look so many times."""
        for _ in range(times):
            with suppress(PublishError):
                self._stage.clock.send_due(names or [HANDLER])
            self._stage.wait(HELD)


def retry(number: int = 2) -> Message:
    return Message.carrying(envelope(ORDER, id="e-1"), exchange="", routing_key=HANDLER, retries=number)


def test_a_message_that_the_broker_always_refuses_becomes_a_dead_letter(stage, monkeypatch, caplog):
    broker = Broker(stage, monkeypatch, HANDLER)
    stage.store.schedule(HANDLER, Scheduled("retry:1", retry()))

    broker.look(2)
    assert (stage.dead_letters, stage.store.backlog(HANDLER).total) == ([], 1)
    broker.look(1)

    (letter,) = stage.dead_letters
    assert (letter.handler, letter.reason, letter.attempts) == (HANDLER, Reason.UNSENT, 2)
    assert letter.error == "the broker refused it 3 times: there is no such queue"
    assert f"dead letter {letter.id}: payment.charge could not handle a message (unsent" in caplog.text
    broker.look(1)
    assert stage.store.backlog(HANDLER).total == 0
    assert sorted(message.routing_key for message in broker.taken) == ["dead_letter.recorded", "payment.dead_letters"]

    broker.refused.clear()
    stage.app.dead_letters.replay(letter.id)
    broker.look(1)
    assert broker.taken[-1] == retry()


def test_each_of_many_refused_messages_is_tried_and_counted_at_each_look(stage, monkeypatch):
    broker = Broker(stage, monkeypatch, HANDLER)
    for number in range(10):
        stage.store.schedule(HANDLER, Scheduled(f"retry:{number}", retry()))

    broker.look(3)

    assert len(stage.dead_letters) == 10
    broker.look(1)
    assert stage.store.backlog(HANDLER).total == 0


def test_a_broker_in_trouble_refuses_nothing_for_good(stage, monkeypatch):
    broker = Broker(stage, monkeypatch, HANDLER, is_outage=True)
    stage.store.schedule(HANDLER, Scheduled("retry:1", retry()))

    broker.look(10)

    assert (stage.dead_letters, stage.store.backlog(HANDLER).total) == ([], 1)


def test_a_delayed_event_is_kept_for_the_service_and_announced_by_a_replay(stage, monkeypatch):
    broker = Broker(stage, monkeypatch, "order.placed")
    stage.app.publish(ORDER, delay=timedelta(seconds=1))
    stage.wait(2)

    broker.look(3, DELAYED)

    (letter,) = stage.dead_letters
    assert (letter.handler, letter.reason) == ("payment", Reason.UNSENT)
    broker.refused.clear()
    stage.app.dead_letters.replay(letter.id)
    broker.look(1, "payment")
    assert (broker.taken[-1].exchange, broker.taken[-1].routing_key) == ("choreo.events", "order.placed")


def test_a_notice_that_is_always_refused_is_dropped_and_its_dead_letter_kept(stage, monkeypatch, caplog):
    broker = Broker(stage, monkeypatch, "payment.dead_letters")
    park(stage.app.runtime, HANDLER, retry(), ValueError("odd"))

    broker.look(3)

    (letter,) = stage.dead_letters
    assert letter.error == "odd"
    assert stage.store.backlog(HANDLER).total == 0
    assert f"the notice of dead letter {letter.id} is dropped" in caplog.text


@pytest.mark.parametrize(
    ("name", "handler"), [(HANDLER, HANDLER), (DELAYED, "payment"), ("payment.gone", "payment.gone")]
)
def test_an_entry_that_is_no_message_becomes_a_dead_letter_and_leaves(stage, monkeypatch, name, handler):
    broker = Broker(stage, monkeypatch)
    stage.store.register([name])
    stage.store.schedule(name, Scheduled("retry:1", retry()))
    stage.store.schedule(name, Scheduled("retry:2", Message("", "payment.other", b"[]")))
    due = stage.store.due

    def with_junk(*call: Any) -> Any:
        entries = due(*call)
        return [(key, Unreadable(b"\xff{", "it cannot be read") if key == "retry:1" else one) for key, one in entries]

    monkeypatch.setattr(stage.store, "due", with_junk)
    broker.look(1, name)

    (letter,) = stage.dead_letters
    assert (letter.handler, letter.reason, letter.message.body) == (handler, Reason.UNREADABLE, b"\xff{")
    assert "'retry:1' in the schedule of" in letter.error
    assert [message.routing_key for message in broker.taken][:1] == ["payment.other"]


def test_a_schedule_that_the_store_cannot_read_holds_up_no_other(stage, monkeypatch):
    broker = Broker(stage, monkeypatch)
    due = stage.store.due

    def refuse(name: str, *call: Any) -> Any:
        if name == "payment.broken":
            raise StoreError("WRONGTYPE", is_outage=False)
        return due(name, *call)

    monkeypatch.setattr(stage.store, "due", refuse)
    monkeypatch.setattr(stage.store, "ripe", lambda names: names if len(broker.taken) < 1 else [])
    stage.store.schedule(HANDLER, Scheduled("retry:1", retry()))

    with pytest.raises(StoreError, match="WRONGTYPE"):
        stage.clock.send_due(["payment.broken", HANDLER])

    assert broker.taken == [retry()]


# -- a store that can keep no dead letter of a handler -----------------------------------------------------------------


@pytest.mark.parametrize("refused", [1, 2, 3])
def test_a_dead_letter_that_the_store_refuses_is_kept_under_another_name_of_the_service(stage, monkeypatch, refused):
    names = [HANDLER, "payment", "payment.dead_letters"][:refused]
    add_letter = stage.store.add_letter

    def refuse(handler: str, *call: Any) -> None:
        if handler in names:
            raise StoreError("WRONGTYPE", is_outage=False)
        add_letter(handler, *call)

    monkeypatch.setattr(stage.store, "add_letter", refuse)
    raw = Message("", HANDLER, b"\xff")

    park(stage.app.runtime, HANDLER, raw, ValueError("odd"))

    (letter,) = stage.app.dead_letters.find("payment")
    assert letter.handler not in names
    assert "odd (kept for the service, since payment.charge can keep none" in letter.error
    assert stage.app.runtime.undeclared.find() == []
    stage.app.dead_letters.replay(letter.id)
    assert stage.store.backlog(letter.handler).total == 3, "the notice, the alert and the message"


def test_the_dead_letters_of_a_handler_that_cannot_be_read_hide_no_others(stage, monkeypatch, caplog):
    park(stage.app.runtime, "payment", Message("", HANDLER, b"\xff"), ValueError("odd"))
    places, letter, among = stage.store.letter_places, stage.store.letter, stage.store.with_letters

    def refusing(answer: Any) -> Any:
        def refuse(handler: str, *call: Any) -> Any:
            if handler == HANDLER:
                raise StoreError("WRONGTYPE", is_outage=False)
            return answer(handler, *call)

        return refuse

    monkeypatch.setattr(stage.store, "letter_places", refusing(places))
    monkeypatch.setattr(stage.store, "letter", refusing(letter))
    # As on Redis, a handler whose letters cannot be looked at is among those that may have some.
    monkeypatch.setattr(stage.store, "with_letters", lambda names: sorted({*among(names), HANDLER} & {*names}))

    (found,) = stage.app.dead_letters
    assert stage.app.dead_letters.get(found.id) == found
    assert "the dead letters of payment.charge cannot be read" in caplog.text
