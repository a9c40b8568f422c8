"""Dead letters keep what failed, and give it back to the handler that failed."""

import json
from datetime import timedelta

import pytest

from choreo import DeadLetter, Reason
from choreo.delivery.undeclared import UndeclaredHandlers
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
    early = bury(store, letter("payment.refund", failed_at=NOON))
    other = bury(store, letter("driver.assign", failed_at=NOON + timedelta(hours=1)))
    late = bury(store, letter("payment.charge", failed_at=NOON + timedelta(hours=2)))

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

    result = store.begin(Claim("driver.assign", "join:ORD-1", "w"))
    assert result.verdict is Verdict.RUN
    assert list(result.parts) == ["order.confirmed", "payment.charged"]
    assert unpacked(result.parts) == [confirmed, charged]


def test_what_could_not_be_read_is_replayed_as_it_came(store, letters):
    raw = Message("", "staging.payment.charge", b"\xff", {"task": 5}, "text/plain", "binary")
    unreadable = letter(envelopes=(), unit=None, message=raw)
    store.add_letter("payment.charge", unreadable.id, unreadable.to_json())

    letters.replay(unreadable.id)

    assert [message for _, message in store.due("payment.charge", 10, 10)] == [raw]


def test_a_discarded_letter_is_gone_for_good(store, letters):
    failed = bury(store, letter())

    assert letters.discard(failed.id) == failed

    assert list(letters) == []
    assert store.backlog("payment.charge").total == 0
    with pytest.raises(DeadLetterError):
        letters.discard(failed.id)


# -- a handler that is gone -----------------------------------------------------------------------------------------


def declare(store: MemoryStore, worker: str, ttl: float = 60.0, **patterns: str) -> None:
    """Let a worker of payment declare these handlers: name -> pattern."""
    names = [f"payment.{name}" for name in patterns]
    store.register(names)
    bindings = [(f"staging.{name}", pattern) for name, pattern in zip(names, patterns.values(), strict=True)]
    stale = store.declare("payment", worker, bindings, ttl).stale
    store.declare("payment", worker, bindings, ttl, removed=stale)


@pytest.fixture
def renamed(store) -> DeadLetter:
    """A letter of payment.charge, which is called payment.charge_customer now."""
    declare(store, "old", charge="order.placed")
    failed = bury(store, letter())
    store.declare("payment", "old", (), 0)
    declare(store, "new", charge_customer="order.*", refund="order.cancelled")
    return failed


def test_a_letter_of_a_handler_that_is_gone_is_kept_and_the_way_out_is_named(store, letters, renamed):
    with pytest.raises(DeadLetterError) as refused:
        letters.replay(renamed.id)

    assert str(refused.value) == (
        "No worker of payment declares payment.charge any more, so no worker would read the event. If the handler was "
        f"renamed, send the event to its new name: `choreo dead-letters replay {renamed.id} --to "
        'payment.charge_customer` (in Python: to=...). Or declare it again: name="charge".'
    )
    assert list(letters) == [renamed]
    assert store.backlog("payment.charge").total == 0


def test_a_letter_can_be_sent_to_the_new_name_of_its_handler(store, letters, renamed):
    assert letters.replay(renamed.id, to="payment.charge_customer") == renamed

    ((_, message),) = store.due("payment.charge_customer", 10, 10)
    assert (message.exchange, message.routing_key) == ("", "staging.payment.charge_customer")
    assert message.headers["retries"] == 0
    assert Envelope.from_wire(json.loads(message.body)[0][0]) == ORDER
    assert list(letters) == []
    assert store.backlog("payment.charge").total == 0


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("payment.refund", r"payment.refund does not listen to order.placed. It listens to order.cancelled"),
        (
            "payment.chrge",
            r"'payment.chrge' is no handler that a worker declares. payment has payment.charge_customer, ",
        ),
        ("payment.charge", r"'payment.charge' is no handler that a worker declares"),
        ("driver.assign", r"'driver.assign' is no handler that a worker declares. driver has none"),
        ("payment", r"'payment' is no handler"),
        ("refund", r"'refund' is no handler that a worker declares. Did you mean payment.refund\?"),
        ("", r"'' is no handler"),
    ],
)
def test_a_letter_is_not_sent_where_no_worker_takes_it(store, letters, renamed, to, said):
    with pytest.raises(DeadLetterError, match=said):
        letters.replay(renamed.id, to=to)

    assert list(letters) == [renamed]


def test_a_letter_of_a_stopped_service_is_replayed(store, letters):
    declare(store, "only", charge="order.placed")
    store.declare("payment", "only", (), 0)
    failed = bury(store, letter())

    letters.replay(failed.id)

    assert store.backlog("payment.charge").total == 1


def test_during_a_deployment_the_handler_must_be_named(store, letters):
    declare(store, "old", charge="order.placed")
    declare(store, "new", charge_customer="order.placed")
    failed = bury(store, letter())

    with pytest.raises(
        DeadLetterError, match=r"Some live workers of payment declare payment.charge, and others do not"
    ):
        letters.replay(failed.id)
    letters.replay(failed.id, to="payment.charge")

    assert store.backlog("payment.charge").total == 1


def test_every_part_of_a_join_goes_to_the_new_name(store, letters):
    confirmed, charged = envelope(OrderConfirmed(), id="e-1"), envelope(PaymentCharged(), id="e-2")
    failed = bury(store, letter("driver.assign", unit="join:ORD-1", envelopes=(confirmed, charged)))
    declare(store, "new", assign_driver="#")

    letters.replay(failed.id, to="payment.assign_driver")

    found = [Envelope.from_wire(json.loads(one.body)[0][0]) for _, one in store.due("payment.assign_driver", 10, 10)]
    assert found == [confirmed, charged]
    assert list(letters) == []


def test_a_letter_that_holds_no_event_goes_to_the_new_name_as_it_came(store, letters):
    raw = Message("", "payment.charge", b"?", {"task": "payment.charge", "id": "x"})
    failed = bury(store, letter(envelopes=(), unit=None, message=raw, reason=Reason.UNREADABLE))
    declare(store, "new", charge_customer="order.placed")

    letters.replay(failed.id, to="payment.charge_customer")

    ((_, message),) = store.due("payment.charge_customer", 10, 10)
    assert (message.routing_key, message.body) == ("staging.payment.charge_customer", b"?")
    assert message.headers == {"task": "choreo.event", "id": "x"}


def test_an_undeclared_handler_is_found_as_long_as_something_can_reach_it(store, renamed):
    queued = {"staging.payment.charge": 2}
    undeclared = UndeclaredHandlers(
        store, "staging.{}".format, lambda names: {name: queued.get(name, 0) for name in names}
    )

    (found,) = undeclared.find()
    assert (found.handler, found.queue) == ("payment.charge", "staging.payment.charge")
    assert str(found) == "2 messages in its queue, 1 dead letter"
    assert undeclared.find("driver") == []
    assert undeclared.names() == ["payment.charge"]

    store.discard("payment.charge", renamed.id)
    queued.clear()
    assert undeclared.find() == []


def test_an_undeclared_handler_is_found_although_the_broker_does_not_answer(store, renamed):
    (found,) = UndeclaredHandlers(store, "staging.{}".format, {}.__getitem__).find()

    assert str(found) == "its queue cannot be read, 1 dead letter"
