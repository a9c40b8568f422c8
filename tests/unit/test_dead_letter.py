"""Dead letters keep what failed, and give it back to the handler that failed."""

import json
from datetime import timedelta

import pytest

from choreo import DeadLetter, Reason
from choreo.errors import DeadLetterError
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.operate.dead_letters import DeadLetters
from choreo.store import Claim, Settlement, Verdict
from choreo.store.memory import MemoryStore
from choreo.store.parts import unpacked
from tests.unit.events import NOON, OrderConfirmed, OrderPlaced, PaymentCharged, envelope

ORDER = envelope(OrderPlaced(customer_id="alice"), subject="ORD-1")


def letter(handler: str = "payment.charge", **changes) -> DeadLetter:
    known = {
        "service": handler.partition(".")[0],
        "handler": handler,
        "reason": Reason.EXHAUSTED,
        "error": "GatewayDown: 503",
        "message": Message.carrying(ORDER, exchange="", routing_key=handler),
        "traceback": "Traceback ...",
        "attempts": 6,
        "unit": ORDER.id,
        "envelopes": (ORDER,),
        "failed_at": NOON,
    }
    return DeadLetter(**known | changes)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.register(["payment.charge", "payment.refund", "driver.assign"])
    return store


@pytest.fixture
def letters(store) -> DeadLetters:
    return DeadLetters(store, "staging.{}".format)


def bury(store: MemoryStore, letter: DeadLetter) -> DeadLetter:
    """Let the letter's work fail for good."""
    claim = Claim(letter.handler, letter.unit or letter.id, "worker", attempt=max(letter.attempts, 1))
    store.begin(claim)
    store.commit(claim, Settlement(letter=(letter.id, letter.to_json())))
    return letter


def test_a_letter_comes_back_whole():
    failed = letter()

    assert DeadLetter.from_json(failed.to_json()) == failed


def test_a_letter_of_what_could_not_be_read_keeps_it_byte_for_byte():
    raw = Message("", "payment.charge", b"\xff\x00", {"task": ["x"]}, "text/plain", "binary")
    unreadable = letter(envelopes=(), unit=None, message=raw, reason=Reason.UNREADABLE)

    assert DeadLetter.from_json(unreadable.to_json()) == unreadable
    assert str(unreadable) == "something unreadable"


def test_its_text_says_what_failed():
    parts = (envelope(OrderConfirmed(), subject="ORD-1"), envelope(PaymentCharged(), subject="ORD-1"))

    assert str(letter()) == "order.placed ORD-1"
    assert str(letter(envelopes=parts)) == "order.confirmed + payment.charged ORD-1"


def test_letters_are_found_oldest_first_by_service_and_by_handler(store, letters):
    late = bury(store, letter("payment.charge", failed_at=NOON + timedelta(hours=2)))
    early = bury(store, letter("payment.refund", failed_at=NOON))
    other = bury(store, letter("driver.assign", failed_at=NOON + timedelta(hours=1)))

    assert list(letters) == [early, other, late]
    assert letters.find("payment") == [early, late]
    assert letters.find("payment.refund", "driver") == [early, other]
    assert letters.find("pay") == []


def test_a_letter_is_got_by_its_id(store, letters):
    failed = bury(store, letter())

    assert letters.get(failed.id) == failed
    with pytest.raises(DeadLetterError, match=r"no dead letter 'nope'. `choreo dead-letters list`"):
        letters.get("nope")


def test_a_replay_goes_to_the_queue_of_the_handler_that_failed_with_all_its_attempts(store, letters):
    failed = bury(store, letter(attempts=6))

    replayed = letters.replay(failed.id)

    ((_, message),) = store.due("payment.charge", 10, 10)
    assert replayed == failed
    assert (message.exchange, message.routing_key) == ("", "staging.payment.charge")
    assert message.headers["retries"] == 0
    assert Envelope.from_wire(json.loads(message.body)[0][0]) == ORDER
    assert store.begin(Claim("payment.charge", ORDER.id, "w", attempt=1)).verdict is Verdict.RUN


def test_a_replayed_letter_is_gone_and_cannot_be_replayed_twice(store, letters):
    failed = bury(store, letter())

    letters.replay(failed.id)

    assert list(letters) == []
    with pytest.raises(DeadLetterError):
        letters.replay(failed.id)
    assert store.backlog("payment.charge").total == 1


def test_of_two_who_replay_at_once_only_one_succeeds(store, letters):
    failed = bury(store, letter())
    letters.get = {failed.id: failed}.__getitem__  # both have read it before either replays

    letters.replay(failed.id)

    with pytest.raises(DeadLetterError, match="has just been replayed or discarded by another process"):
        letters.replay(failed.id)
    assert store.backlog("payment.charge").total == 1


def test_a_replayed_join_has_its_parts_again(store, letters):
    confirmed, charged = envelope(OrderConfirmed(), id="e-1"), envelope(PaymentCharged(), id="e-2")
    failed = bury(store, letter("driver.assign", unit="join:ORD-1", envelopes=(confirmed, charged)))

    letters.replay(failed.id)

    begun = store.begin(Claim("driver.assign", "join:ORD-1", "w"))
    assert begun.verdict is Verdict.RUN
    assert list(begun.parts) == ["order.confirmed", "payment.charged"]
    assert unpacked(begun.parts) == [confirmed, charged]


def test_what_could_not_be_read_is_replayed_as_it_came(store, letters):
    raw = Message("", "staging.payment.charge", b"\xff", {"task": 5}, "text/plain", "binary")
    unreadable = letter(envelopes=(), unit=None, message=raw)
    store.bury("payment.charge", unreadable.id, unreadable.to_json())

    letters.replay(unreadable.id)

    assert [message for _, message in store.due("payment.charge", 10, 10)] == [raw]


def test_a_discarded_letter_is_gone_for_good(store, letters):
    failed = bury(store, letter())

    assert letters.discard(failed.id) == failed

    assert list(letters) == []
    assert store.backlog("payment.charge").total == 0
    with pytest.raises(DeadLetterError):
        letters.discard(failed.id)
