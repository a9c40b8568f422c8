"""The promises of every store: what is scheduled comes out when it is due."""

import json

import pytest

from choreo.events.message import Message
from choreo.store import Scheduled, Settlement
from choreo.store.schedule import Hurried, Unreadable, entry_mark
from tests.contract.rigs import (
    DEADLINE,
    HANDLER,
    HOLD,
    at,
    at_once,
    claim,
    due,
    message,
    part_of,
)


def test_a_message_comes_out_as_it_went_in_when_it_is_due(rig):
    odd = Message("choreo.events", "order.placed", b"\xff\x00", {"n": None, "é": [1]}, "text/plain", "binary")
    rig.store.schedule(HANDLER, Scheduled("m", odd, 15))
    assert rig.store.due(HANDLER, 10, HOLD) == []

    rig.pass_time(20)

    assert rig.store.due(HANDLER, 10, HOLD) == [("m", odd)]


def test_the_schedules_with_entries_are_told_at_once(rig):
    rig.store.schedule(HANDLER, at("m", 15))
    rig.store.schedule("driver.notify", at("gone", 15))
    rig.store.unschedule("driver.notify", "gone")

    assert rig.store.with_entries(["payment.charge", HANDLER, "driver.notify"]) == [HANDLER]
    assert rig.store.with_entries([]) == []


def test_what_is_due_comes_in_order_and_not_more_than_asked_for(rig):
    for delay in (25, 5, 15):
        rig.store.schedule(HANDLER, at(f"m{delay}", delay))
    rig.pass_time(30)

    assert due(rig.store, limit=2) == ["m5", "m15"]
    assert due(rig.store, limit=2) == ["m25"]


def test_what_was_handed_out_is_held_back_from_others_until_it_is_sent_or_given_up(rig):
    rig.store.schedule(HANDLER, at("m"))
    assert due(rig.store) == ["m"]
    assert due(rig.store) == []

    rig.pass_time(30)
    assert due(rig.store) == ["m"]

    rig.store.sent(HANDLER, ["m"])
    rig.pass_time(30)
    assert due(rig.store) == []
    assert rig.store.backlog(HANDLER).total == 0


def test_scheduling_the_same_id_again_changes_nothing(rig):
    rig.store.schedule(HANDLER, Scheduled("m", message("first"), 15))
    rig.store.schedule(HANDLER, Scheduled("m", message("second"), 0))

    assert due(rig.store) == []
    rig.pass_time(20)
    assert rig.store.due(HANDLER, 10, HOLD) == [("m", message("first"))]


def test_one_question_tells_in_whose_schedules_something_is_due(rig):
    names = ["payment.charge", "payment.refund", "payment.join", "payment.idle"]
    rig.store.schedule("payment.charge", Scheduled("m", message("m"), 0))
    rig.store.schedule("payment.refund", Scheduled("m", message("m"), 15))
    rig.store.arrive(claim(unit="join:ORD-1", handler="payment.join"), part_of("a", within=10))
    assert rig.store.ripe(names) == ["payment.charge"]
    assert rig.store.ripe([]) == []

    rig.pass_time(20)
    assert rig.store.ripe(names) == ["payment.charge", "payment.refund", "payment.join"]

    for name in names:
        rig.store.due(name, 10, HOLD)
    assert rig.store.ripe(names) == [], "what is held back is due for nobody else"

    rig.store.sent("payment.join", [DEADLINE])
    rig.store.sent("payment.charge", ["m"])
    rig.pass_time(30)
    assert rig.store.ripe(names) == ["payment.refund"], "a join is reminded once"


GOOD = json.loads(message().to_json())
#: What is no message.
JUNK = [b"", b"\xff", b"5", b"{}", json.dumps(GOOD).encode()[:-1]]
JUNK += [json.dumps(GOOD | odd).encode() for odd in ({"headers": 5}, {"exchange": None}, {"body": 1}, {"x": 1})]


@pytest.mark.parametrize("rig", ["redis", "fused", "cluster"], indirect=True)  # into memory nobody else can write
@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("key", [b"m", b"\xff\xfe"])
def test_an_entry_that_is_no_message_is_told_apart_and_can_be_removed(rig, key, junk):
    (due_key, post_key), client = rig.store._calendar(HANDLER), rig.store._calls._client
    client.hset(post_key, key, junk)
    client.zadd(due_key, {key: 1})
    rig.store.schedule(HANDLER, at("good"))

    (odd_key, odd), (good_key, good) = rig.store.due(HANDLER, 10, HOLD)

    assert isinstance(odd, Unreadable)
    assert (odd.text, good_key, good) == (junk, "good", message("good"))
    rig.store.sent(HANDLER, [odd_key, good_key])
    assert rig.store.backlog(HANDLER).total == 0
    assert not client.exists(post_key)


def test_schedules_are_apart_by_owner(store):
    store.schedule("payment.charge", at("m"))

    assert due(store) == []
    assert store.backlog(HANDLER).total == 0
    assert store.backlog("payment.charge").total == 1


def test_of_many_who_ask_at_once_one_gets_the_message(store):
    for number in range(20):
        store.schedule(HANDLER, at(f"m{number}"))

    taken = [key for keys in at_once(6, lambda _: due(store, limit=5)) for key in keys]

    assert len(taken) == len(set(taken)) == 20


def test_the_backlog_tells_what_is_due_and_what_comes_later(rig):
    rig.store.schedule(HANDLER, at("soon", 20))
    rig.store.schedule(HANDLER, at("later", 100))
    assert (rig.store.backlog(HANDLER).due, rig.store.backlog(HANDLER).later) == (0, 2)

    rig.pass_time(50)

    backlog = rig.store.backlog(HANDLER)
    assert (backlog.due, backlog.later, backlog.reminded, backlog.total) == (1, 1, 0, 2)
    assert backlog.late == pytest.approx(30, abs=5)
    assert backlog.next_at is not None
    assert backlog.next_at - rig.store.now() == pytest.approx(50, abs=5)
    assert rig.store.backlog("somebody.else") == type(backlog)()


def test_what_falls_due_soon_is_told_in_order_with_its_time(rig):
    for delay in (55, 15, 35, 105):
        rig.store.schedule(HANDLER, at(f"m{delay}", delay))
    rig.pass_time(20)

    found = rig.store.upcoming(HANDLER, 60, 10)

    assert [key for key, _ in found] == ["m35", "m55"]
    soon, late = (when - rig.store.now() for _, when in found)
    assert 5 < soon <= 15.1
    assert 25 < late <= 35.1
    assert [key for key, _ in rig.store.upcoming(HANDLER, 100, 1)] == ["m35"]


def test_the_backlog_tells_how_many_joins_are_pending(rig):
    rig.store.schedule(HANDLER, at("m", 5))
    for unit in ("join:ORD-1", "join:ORD-2"):
        rig.store.arrive(claim(unit=unit), part_of("order.confirmed"))
    assert (rig.store.backlog(HANDLER).joins, rig.store.backlog(HANDLER).total) == (2, 3)

    rig.pass_time(100)
    rig.store.sent(HANDLER, due(rig.store))
    backlog = rig.store.backlog(HANDLER)
    assert (backlog.joins, backlog.reminded, backlog.total) == (2, 2, 2)

    signal = claim(unit="join:ORD-1", attempt=0)
    rig.store.begin(signal)
    rig.store.commit(signal, Settlement(unscheduled=["deadline:join:ORD-1"]))
    assert rig.store.backlog(HANDLER).joins == 1


# -- for people -----------------------------------------------------------------------------------------------------


def keys(page) -> list[str]:
    return [kept.id for kept in page]


def test_a_schedule_is_read_in_pages_in_the_order_of_time_and_id(rig):
    rig.store.schedule(HANDLER, at("later", 60))
    for number in range(7):
        rig.store.schedule(HANDLER, at(f"m{number}", 20))
    rig.store.arrive(claim(unit="join:ORD-1"), part_of("a", within=10))

    found, place = [], (0.0, "")
    while page := rig.store.entries(HANDLER, 2, place):
        assert len(page) <= 2
        found += page
        place = page[-1].due, page[-1].id

    assert keys(found)[0] == DEADLINE
    assert sorted(keys(found)) == sorted([DEADLINE, *(f"m{number}" for number in range(7)), "later"])
    assert [kept.due for kept in found] == sorted(kept.due for kept in found)
    assert [kept.message for kept in found if kept.id in (DEADLINE, "later")] == [None, message("later")]


def test_entries_of_one_moment_are_not_repeated_or_left_out(rig):
    rig.store.schedule(HANDLER, at("a", 60))
    (first,) = rig.store.entries(HANDLER, 10)

    assert keys(rig.store.entries(HANDLER, 10, (first.due, ""))) == ["a"]
    assert keys(rig.store.entries(HANDLER, 10, (first.due, "a"))) == []
    assert keys(rig.store.entries(HANDLER, 10, (first.due, "Z"))) == ["a"]
    assert keys(rig.store.entries(HANDLER, 10, (first.due, "\U0010ffff"))) == []


def test_what_another_program_put_there_is_read_as_it_is(rig):
    rig.store.schedule(HANDLER, at("m", 60))
    (kept,) = rig.store.entries(HANDLER, 10)
    assert not isinstance(kept.message, Unreadable)
    assert not kept.is_leaving


def test_an_entry_can_be_made_to_fall_due_now(rig):
    rig.store.schedule(HANDLER, at("m", 1000))
    rig.store.schedule(HANDLER, at("other", 1000))

    assert rig.store.hurry(HANDLER, "m") is Hurried.NOW
    assert rig.store.hurry(HANDLER, "m") is Hurried.DUE
    assert due(rig.store) == ["m"]
    assert rig.store.hurry(HANDLER, "missing") is Hurried.GONE


def test_what_a_worker_was_given_is_not_made_due_once_more(rig):
    rig.store.schedule(HANDLER, at("m"))
    assert due(rig.store) == ["m"]

    (kept,) = rig.store.entries(HANDLER, 10)
    assert kept.is_leaving
    assert rig.store.hurry(HANDLER, "m") is Hurried.LEAVING
    assert due(rig.store) == []

    rig.store.sent(HANDLER, ["m"])
    assert rig.store.hurry(HANDLER, "m") is Hurried.GONE


def test_a_deadline_can_be_made_to_fall_due_now_and_only_once(rig):
    rig.store.arrive(claim(unit="join:ORD-1"), part_of("a", within=1000))

    assert rig.store.hurry(HANDLER, DEADLINE) is Hurried.NOW
    assert due(rig.store) == [DEADLINE]
    rig.store.sent(HANDLER, [DEADLINE])

    assert rig.store.hurry(HANDLER, DEADLINE) is Hurried.GONE
    assert rig.store.entries(HANDLER, 10) == [], "a deadline that was sent is no entry for people"


def test_an_entry_is_found_by_its_mark(rig):
    for number in range(1100):
        rig.store.schedule(HANDLER, at(f"m{number}", 60))
    rig.store.arrive(claim(unit="join:ORD-1"), part_of("a", within=1000))

    found = rig.store.find_entry(HANDLER, entry_mark(HANDLER, "m1077"))
    assert (found.id, found.message) == ("m1077", message("m1077"))
    assert rig.store.find_entry(HANDLER, entry_mark(HANDLER, DEADLINE)).message is None
    assert rig.store.find_entry(HANDLER, entry_mark("another", "m1077")) is None
    assert rig.store.find_entry("another", "0123456789") is None
