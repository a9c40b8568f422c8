"""The promises of every store: what it keeps about a subject is found, and nothing else is."""

import pytest

from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.store import Scheduled, Settlement
from tests.contract.rigs import HANDLER, claim, settle


def carrying(subject: str, event_id: str = "e-1") -> Message:
    wire = {"specversion": "1.0", "id": event_id, "type": "order.placed", "source": "shop", "subject": subject}
    event = Envelope.from_wire(wire | {"time": "2026-01-01T00:00:00+00:00"})
    return Message.carrying(event, exchange="", routing_key=HANDLER)


@pytest.mark.parametrize("subject", ["ORD-1", "Ä-1", 'a "quoted" \\ name', "*[?"])
def test_a_scheduled_message_is_found_by_its_subject(store, subject):
    store.schedule(HANDLER, Scheduled("retry:1", carrying(subject), 60))
    store.schedule(HANDLER, Scheduled("retry:2", carrying("another"), 60))

    (found,), is_whole = store.find_scheduled(HANDLER, [subject])

    assert (found.id, found.message, is_whole) == ("retry:1", carrying(subject), True)
    assert 50 < found.due - store.now() < 61
    assert store.find_scheduled("another.handler", [subject]) == ([], True)


def test_a_search_says_if_it_did_not_look_at_everything(store):
    for number in range(1200):
        store.schedule(HANDLER, Scheduled(f"retry:{number}", carrying("ORD-1", f"e-{number}"), 60))
        store.add_letter(HANDLER, f"letter-{number}", '{"subject": "ORD-1"}')

    found, is_whole = store.find_scheduled(HANDLER, ["ORD-1"], most=600)
    assert 600 <= len(found) < 1200
    assert not is_whole
    found, is_whole = store.find_letters(HANDLER, ["ORD-1"], most=600)
    assert 600 <= len(found) < 1200
    assert not is_whole
    assert len(store.find_letters(HANDLER, ["ORD-1"])[0]) == 1200


def test_a_dead_letter_is_found_by_what_is_in_it(store):
    store.add_letter(HANDLER, "a", '{"subject": "ORD-1"}')
    store.add_letter(HANDLER, "b", '{"subject": "ORD-2"}')

    assert store.find_letters(HANDLER, ["ORD-2", "ORD-3"]) == (['{"subject": "ORD-2"}'], True)
    assert store.find_letters(HANDLER, [""]) == ([], True)


def test_a_unit_tells_who_holds_it_and_how_often_it_was_begun(store, rig):
    assert store.unit(HANDLER, "u") is None

    store.begin(claim("first", unit="u"))
    held = store.unit(HANDLER, "u")
    assert (held.holder, held.begun, held.attempts) == ("first", 1, 0)

    rig.pass_time(40)
    store.begin(claim("second", unit="u"))
    held = store.unit(HANDLER, "u")
    assert (held.holder, held.begun, held.before) == ("second", 2, "first")

    settle(store, claim("second", unit="u"), Settlement(done=False))
    held = store.unit(HANDLER, "u")
    assert (held.holder, held.begun, held.attempts) == ("", 0, 1)

    store.begin(claim("third", unit="u", attempt=2))
    settle(store, claim("third", unit="u", attempt=2), Settlement())
    assert store.unit(HANDLER, "u") is None


def test_the_namespaces_are_told(store):
    store.register(["shop"])

    assert store.namespaces() is None or isinstance(store.namespaces(), list)
