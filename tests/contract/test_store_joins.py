"""The promises of the store to joins and to delayed messages, kept by the one in memory and by the one in Redis."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from choreo.events.message import Message
from choreo.store import Arrival, ClaimResult, Outcome, Scheduled, Settlement, Store, Verdict, deadline_id
from choreo.store.claims import COMPLETE, SURPLUS
from choreo.store.parts import mark_of
from tests.contract.rigs import (
    HANDLER,
    LEASE,
    OWNER,
    TERMS,
    WITHIN,
    MemoryRig,
    RedisRig,
    at,
    at_once,
    claim,
    due,
    replay,
)

UNIT = "join:ORD-1"
DONE = Settlement(unscheduled=[deadline_id(UNIT)])
AGAIN = Settlement(done=False)


def arrival(name: str, *, needs=None, at_least=2, text="", within=WITHIN, counts=None) -> Arrival:
    """``a`` is one part; ``b/1`` and ``b/2`` are two of several."""
    needs = {"a": None, "b": 2} if needs is None else needs
    return Arrival(name.partition("/")[0], name, text or f"<{name}>", needs, at_least, within, counts or {})


def arrive(store: Store, name: str, token: str = "A", attempt: int = 1, unit: str = UNIT, **more: Any) -> ClaimResult:
    return store.arrive(claim(token, unit, attempt), arrival(name, **more))


# -- several of a type ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("a", "b/1", "b/2"), ("b/1", "a", "b/2"), ("b/2", "b/1", "a")])
def test_several_of_a_type_are_all_waited_for_and_all_handed_out(store, order):
    first, second, last = order

    assert arrive(store, first) == ClaimResult(Verdict.WAIT, 1)
    assert arrive(store, second) == ClaimResult(Verdict.WAIT, 2)

    result = arrive(store, last)
    assert (result.verdict, result.parts) == (Verdict.RUN, {"a": "<a>", "b/1": "<b/1>", "b/2": "<b/2>"})


def test_the_same_one_of_several_counts_once(store):
    arrive(store, "a")

    assert [arrive(store, "b/1") for _ in range(3)] == [ClaimResult(Verdict.WAIT, 2)] * 3
    assert store.tally(HANDLER) == {"duplicate": 2}
    assert arrive(store, "b/2").verdict is Verdict.RUN


def test_one_that_was_delivered_before_is_no_duplicate_nor_late(store):
    arrive(store, "a")

    assert store.arrive(claim("B", UNIT), replace(arrival("a"), may_be_repeated=True)) == ClaimResult(Verdict.WAIT, 1)

    arrive(store, "b/1")
    arrive(store, "b/2")
    assert store.arrive(claim("B", UNIT), replace(arrival("b/3"), may_be_repeated=True)).verdict is Verdict.DONE
    store.commit(claim("A", UNIT), Settlement())
    assert store.arrive(claim("B", UNIT), replace(arrival("a"), may_be_repeated=True)).verdict is Verdict.DONE
    assert store.tally(HANDLER) == {}


def test_more_than_are_needed_are_not_kept(store):
    for name in ("b/1", "b/2", "b/3"):
        arrive(store, name)

    assert arrive(store, "a").parts.keys() == {"a", "b/1", "b/2"}
    assert store.tally(HANDLER) == {"surplus": 1}


def test_another_event_in_the_place_of_one_that_is_here_is_more_than_is_needed(store):
    arrive(store, "a")
    arrive(store, "a", text="<another>")
    arrive(store, "a")

    assert store.tally(HANDLER) == {"surplus": 1, "duplicate": 1}


@pytest.mark.parametrize("order", [("a", "b/1", "b/2"), ("b/1", "b/2", "a"), ("b/1", "a", "b/2")])
def test_how_many_there_are_can_be_told_by_another_part(store, order):
    needs = {"a": None, "b": 0}

    *first, last = [arrive(store, n, needs=needs, counts={"b": 2} if n == "a" else None) for n in order]

    assert {result.verdict for result in first} == {Verdict.WAIT}
    assert last.parts == {"a": "<a>", "b/1": "<b/1>", "b/2": "<b/2>"}


def test_what_was_told_first_holds_and_none_is_a_number_too(store):
    needs = {"a": None, "b": 0}

    assert arrive(store, "a", needs=needs, counts={"b": 0}).verdict is Verdict.RUN
    assert store.look(HANDLER, UNIT).counts == {"b": 0}


# -- a quorum ---------------------------------------------------------------------------------------------------

THREE = {"a": None, "b": None, "c": None}


def test_a_quorum_is_enough_and_nothing_is_added_to_it(store):
    arrive(store, "a", needs=THREE)
    assert arrive(store, "b", needs=THREE).verdict is Verdict.RUN

    assert arrive(store, "c", "C", needs=THREE).verdict is Verdict.DONE
    store.commit(claim(unit=UNIT), AGAIN)

    assert arrive(store, "b", "B", attempt=2, needs=THREE).parts == {"a": "<a>", "b": "<b>"}
    assert store.tally(HANDLER) == {"late": 1}


def test_what_comes_after_the_commit_is_late(store):
    arrive(store, "a", needs=THREE)
    arrive(store, "b", needs=THREE)
    store.commit(claim(unit=UNIT), DONE)

    assert [arrive(store, name, needs=THREE).verdict for name in "abc"] == [Verdict.DONE] * 3
    assert store.tally(HANDLER) == {"late": 3}


def test_tallies_are_kept_by_handler(store):
    for _ in range(2):
        arrive(store, "a")

    assert store.tally("driver.other") == {}


# -- another declaration ----------------------------------------------------------------------------------------

ONE, TWO = {"a": None, "b": None}, {"a": None, "b": 2}


def test_what_was_kept_for_one_of_a_type_counts_among_several(store):
    arrive(store, "b", needs=ONE)

    assert arrive(store, "b/1", needs=TWO, text="<b>") == ClaimResult(Verdict.WAIT, 1), "it is the same event"
    assert arrive(store, "b/2", needs=TWO) == ClaimResult(Verdict.WAIT, 2)
    assert arrive(store, "a", needs=TWO).parts == {"a": "<a>", "b": "<b>", "b/2": "<b/2>"}


def test_what_was_kept_for_several_of_a_type_counts_for_one(store):
    arrive(store, "b/1", needs=TWO)

    assert arrive(store, "b", needs=ONE, text="<b/1>") == ClaimResult(Verdict.WAIT, 1), "it is the same event"
    assert arrive(store, "b", needs=ONE, text="<another>").note == SURPLUS
    assert arrive(store, "a", needs=ONE).parts == {"a": "<a>", "b/1": "<b/1>"}


def test_a_part_that_comes_again_may_ask_for_another_number(store):
    needs = {"a": None, "b": 0}
    arrive(store, "a", needs=needs, counts={"b": 3})
    arrive(store, "b/1", needs=needs)

    assert arrive(store, "a", "B", needs=needs, counts={"b": 1}).parts == {"a": "<a>", "b/1": "<b/1>"}


def test_a_join_that_is_complete_by_a_new_declaration_gets_its_deadline_with_the_next_event(store):
    three = {"a": None, "b": 3}
    for name in ("a", "b/1", "b/2"):
        arrive(store, name, needs=three)
    assert due(store) == []

    late = arrive(store, "b/3", needs=TWO)

    assert (late.verdict, late.note) == (Verdict.DONE, COMPLETE)
    assert due(store) == [deadline_id(UNIT)]


def test_the_attempts_of_a_join_that_waits_again_begin_anew(store):
    for name in ("a", "b/1"):
        arrive(store, name, needs=ONE | {"b": 1})
    store.commit(claim(unit=UNIT), AGAIN)

    assert arrive(store, "b/1", "B", attempt=2, needs=TWO) == ClaimResult(Verdict.WAIT, 2)

    assert arrive(store, "b/2", "B", needs=TWO).verdict is Verdict.RUN


def test_a_deadline_that_had_no_effect_falls_due_again_once_the_join_waits_again(rig):
    for name in ("a", "b/1"):
        arrive(rig.store, name, needs=ONE | {"b": 1})
    rig.store.commit(claim(unit=UNIT), AGAIN)
    rig.pass_time(100)
    rig.store.sent(HANDLER, due(rig.store))

    assert arrive(rig.store, "b/1", "B", attempt=2, needs=TWO).verdict is Verdict.WAIT

    assert due(rig.store) == [deadline_id(UNIT)]


def test_a_letter_is_not_replayed_into_a_join_that_waits_for_other_parts(rig):
    arrive(rig.store, "a")
    rig.store.begin(claim(unit=UNIT, attempt=0))
    rig.store.commit(claim(unit=UNIT, attempt=0), Settlement(letter=("l-1", "{}")))
    rig.pass_time(2 * TERMS.retention.total_seconds())
    arrive(rig.store, "a", text="<another>")

    assert not replay(rig.store, HANDLER, "l-1", UNIT, {"a": "<a>"}, at("replay:l-1"))

    assert rig.store.letter(HANDLER, "l-1") == "{}"
    assert rig.store.look(HANDLER, UNIT).parts == {"a": "<another>"}


# -- events that did not count ----------------------------------------------------------------------------------


def test_a_settled_join_gives_its_note_to_events_that_come_late(store):
    for name in ("a", "b/1", "b/2"):
        arrive(store, name)
    assert arrive(store, "b/3", "C").note == COMPLETE
    store.commit(claim(unit=UNIT), replace(DONE, note="some marks"))

    assert arrive(store, "b/3", "C") == ClaimResult(Verdict.DONE, note="some marks")


def test_an_event_of_which_a_waiting_join_has_enough_is_told_from_one_that_came_before(store):
    arrive(store, "a")

    assert arrive(store, "a", "B") == ClaimResult(Verdict.WAIT, 1)
    assert arrive(store, "a", "B", text="<another>") == ClaimResult(Verdict.WAIT, 1, note=SURPLUS)


# -- rounds -----------------------------------------------------------------------------------------------------


def join_round(store: Store, name: str, token: str = "A", attempt: int = 1) -> ClaimResult:
    """The arrival of ``a/1`` or ``b/2`` at a join of one a and one b, which begins again and again."""
    part, _, identity = name.partition("/")
    about = Arrival(part, name, f"<{name}>", {"a": None, "b": None}, 2, WITHIN, round_of=identity)
    return store.arrive(claim(token, UNIT, attempt), about)


def settle_round(store: Store, *took_part: str, token: str = "A") -> None:
    settlement = Settlement(unscheduled=DONE.unscheduled, note="marks", took_part=took_part)
    assert store.commit(claim(token, UNIT), settlement).outcome is Outcome.OK


def test_the_next_new_event_begins_a_new_round_and_a_repeated_one_changes_nothing(rig):
    store = rig.store
    for number in (1, 2, 3):
        first, last = f"a/{number}", f"b/{number}"
        assert join_round(store, first) == ClaimResult(Verdict.WAIT, 1)
        assert join_round(store, last).parts == {first: f"<{first}>", last: f"<{last}>"}
        settle_round(store, str(number), f"{number}'")
        assert store.look(HANDLER, UNIT) is None
        assert [join_round(store, f"{part}/{before}").verdict for before in range(1, number + 1) for part in "ab"] == [
            Verdict.DONE
        ] * (2 * number)
        assert store.look(HANDLER, UNIT) is None
        rig.pass_time(100)
    assert store.tally(HANDLER) == {}


def test_a_repeated_event_does_not_disturb_a_later_round(store):
    for name in ("a/1", "b/2"):
        join_round(store, name)
    settle_round(store, "1", "2")
    join_round(store, "a/3")

    assert join_round(store, "b/2").verdict is Verdict.DONE
    assert store.look(HANDLER, UNIT).parts == {"a/3": "<a/3>"}


def test_an_event_for_the_next_round_waits_for_the_end_of_this_one(store):
    join_round(store, "a/1")
    assert join_round(store, "a/3", "C").verdict is Verdict.BUSY, "this round has its a"

    join_round(store, "b/2")
    assert join_round(store, "a/3", "C").verdict is Verdict.BUSY, "a worker runs it"
    store.commit(claim(unit=UNIT), AGAIN)
    assert join_round(store, "a/3", "C").verdict is Verdict.BUSY, "it waits for its next attempt"
    join_round(store, "b/2", attempt=2)
    settle_round(store, "1", "2")

    assert join_round(store, "a/3", "C") == ClaimResult(Verdict.WAIT, 1)


def test_a_round_is_forgotten_after_the_retention(rig):
    for name in ("a/1", "b/2"):
        join_round(rig.store, name)
    settle_round(rig.store, "1", "2")
    rig.pass_time(2 * TERMS.retention.total_seconds())

    assert join_round(rig.store, "a/1").verdict is Verdict.WAIT


def test_an_event_that_cancelled_one_round_does_not_cancel_the_next(store):
    cancels = replace(claim("X", UNIT), signal="9", once="9")
    join_round(store, "a/1")
    assert store.begin(cancels).verdict is Verdict.RUN
    settle_round(store, "1", "9", token="X")
    join_round(store, "a/2")

    assert store.begin(replace(cancels, token="Y")).verdict is Verdict.DONE
    assert store.look(HANDLER, UNIT).parts == {"a/2": "<a/2>"}


def test_an_event_that_came_to_cancel_a_settled_round_does_not_cancel_the_next(store):
    cancels = replace(claim("X", UNIT), signal="9", once="9")
    for name in ("a/1", "b/2"):
        join_round(store, name)
    settle_round(store, "1", "2")
    assert store.begin(cancels).verdict is Verdict.DONE
    join_round(store, "a/3")

    assert store.begin(replace(cancels, token="Y")).verdict is Verdict.DONE
    assert store.look(HANDLER, UNIT).parts == {"a/3": "<a/3>"}


@pytest.mark.parametrize("retention", [1, 7])
def test_the_events_of_a_replayed_round_take_part_again_whatever_retention_the_replaying_program_has(rig, retention):
    store, other = rig.store, rig.other(replace(TERMS, retention=retention * TERMS.retention))
    for name in ("a/1", "b/2"):
        join_round(store, name)
    settlement = Settlement(unscheduled=DONE.unscheduled, letter=("l-1", "{}"), took_part=["1", "2"])
    store.commit(claim(unit=UNIT), settlement)
    parts = {"a/1": "<a/1>", "b/2": "<b/2>"}

    assert replay(other, HANDLER, "l-1", UNIT, parts, at("replay:l-1"))

    assert join_round(store, "a/1").parts == parts
    settle_round(store, "1", "2")
    assert [join_round(store, name).verdict for name in parts] == [Verdict.DONE] * 2


@pytest.mark.parametrize("retention", [1, 7])
def test_the_events_of_a_round_that_another_program_settled_are_known_to_the_service(rig, retention):
    other = rig.other(replace(TERMS, retention=retention * TERMS.retention))
    join_round(rig.store, "a/1")
    other.begin(claim("X", UNIT, 0))
    settlement = replace(DONE, took_part=["1"], retention=TERMS.retention.total_seconds())

    assert other.commit(claim("X", UNIT, 0), settlement).outcome is Outcome.OK

    assert join_round(rig.store, "a/1").verdict is Verdict.DONE
    rig.pass_time(2 * TERMS.retention.total_seconds())
    assert join_round(rig.store, "a/1").verdict is Verdict.WAIT


def test_an_event_that_took_part_in_a_round_is_no_finished_unit_of_a_handler_that_is_no_join_any_more(store):
    for name in ("a/1", "b/2"):
        join_round(store, name)
    settle_round(store, "1", "2")

    assert store.begin(claim(unit="1")).verdict is Verdict.RUN
    assert store.commit(claim(unit="1"), Settlement()).outcome is Outcome.OK
    assert join_round(store, "a/1").verdict is Verdict.DONE


def test_a_join_that_was_settled_before_it_had_rounds_knows_its_events(store):
    for name in ("a", "b/1", "b/2"):
        arrive(store, name)
    store.commit(claim(unit=UNIT), replace(DONE, note=f"{mark_of('1')} {mark_of('2')}"))

    assert [join_round(store, name).verdict for name in ("a/1", "b/2")] == [Verdict.DONE] * 2
    assert join_round(store, "a/3").verdict is Verdict.WAIT


# -- what is pending --------------------------------------------------------------------------------------------


def test_a_pending_join_tells_what_it_has_and_until_when(rig):
    start = rig.store.now()
    arrive(rig.store, "b/1")
    rig.pass_time(30)
    arrive(rig.store, "a", counts={"b": 5})

    seen = rig.store.look(HANDLER, UNIT)

    assert (seen.unit, seen.is_overdue, seen.attempts, seen.lease) == (UNIT, False, 0, 0)
    assert list(seen.parts.items()) == [("b/1", "<b/1>"), ("a", "<a>")]
    assert seen.counts == {"b": 5}
    # The rig of Redis cannot move its clock, and moves what is kept instead.
    now = rig.store.now()
    assert now - seen.arrived["b/1"] == pytest.approx(30, abs=3)
    assert now - seen.arrived["a"] == pytest.approx(0, abs=3)
    assert seen.deadline - now == pytest.approx(WITHIN - 30, abs=3)
    assert now - start == pytest.approx(0, abs=35)


def test_a_pending_join_tells_of_its_attempts_and_of_a_worker_that_holds_it(rig):
    for name in ("a", "b/1"):
        arrive(rig.store, name)
    arrive(rig.store, "b/2")
    rig.store.commit(claim(unit=UNIT), AGAIN)
    arrive(rig.store, "b/2", "B", attempt=2)
    rig.pass_time(10)

    seen = rig.store.look(HANDLER, UNIT)

    assert seen.attempts == 1
    assert seen.lease == pytest.approx(LEASE - 10, abs=3)
    rig.pass_time(LEASE)
    assert rig.store.look(HANDLER, UNIT).lease == 0


@pytest.mark.parametrize("settle", ["commit", "cancel", "letter"])
def test_a_settled_join_is_no_longer_pending_and_leaves_nothing_but_its_mark(store, settle):
    arrive(store, "a")
    arrive(store, "b/1")
    if settle == "commit":
        arrive(store, "b/2")
    else:
        store.begin(claim(unit=UNIT, attempt=0))
    settlement = Settlement(unscheduled=DONE.unscheduled, letter=("l-1", "{}")) if settle == "letter" else DONE

    assert store.commit(claim(unit=UNIT), settlement).outcome is Outcome.OK

    assert store.look(HANDLER, UNIT) is None
    assert store.pending(HANDLER, 10) == ([], "")
    assert store.backlog(HANDLER).total == 0


def test_a_join_that_waits_for_its_next_attempt_is_pending(store):
    for name in ("a", "b/1", "b/2"):
        arrive(store, name)
    store.commit(claim(unit=UNIT), AGAIN)

    assert store.pending(HANDLER, 10)[0] == [UNIT]


def test_what_was_never_begun_is_not_pending(store):
    assert store.look(HANDLER, UNIT) is None
    assert store.pending(HANDLER, 10) == ([], "")


def test_a_deadline_comes_without_a_message_and_the_join_stays_pending(rig):
    arrive(rig.store, "a")
    rig.pass_time(100)

    assert rig.store.due(HANDLER, 10, 25) == [(deadline_id(UNIT), None)]
    rig.store.sent(HANDLER, [deadline_id(UNIT)])

    rig.pass_time(1000)
    assert due(rig.store) == []
    assert rig.store.look(HANDLER, UNIT).is_overdue
    assert rig.store.pending(HANDLER, 10)[0] == [UNIT]


def test_a_deadline_that_was_handed_out_and_not_sent_comes_again(rig):
    arrive(rig.store, "a")
    rig.pass_time(100)
    due(rig.store)
    assert due(rig.store) == []

    rig.pass_time(30)

    assert due(rig.store) == [deadline_id(UNIT)]


def test_a_deadline_that_was_sent_for_a_join_that_is_settled_brings_nothing_back(rig):
    arrive(rig.store, "a")
    rig.pass_time(100)
    due(rig.store)
    rig.store.begin(claim(unit=UNIT, attempt=0))
    rig.store.commit(claim(unit=UNIT), DONE)

    rig.store.sent(HANDLER, [deadline_id(UNIT)])

    assert rig.store.pending(HANDLER, 10) == ([], "")


def every(store: Store, limit: int) -> list[str]:
    found, after = [], ""
    while True:
        units, after = store.pending(HANDLER, limit, after)
        assert len(units) <= limit
        found += units
        if not after:
            return found


@pytest.mark.parametrize("limit", [1, 3, 5, 100])
def test_pending_joins_come_in_pages_soonest_deadline_first_and_each_once(rig, limit):
    # Some of one and the same deadline, overdue ones first, and messages in between that are no joins.
    for number, within in enumerate([50, 50, 20, 50, 70, 50, 50, 50, 5, 60]):
        arrive(rig.store, "a", unit=f"join:{number}", within=within)
        rig.store.schedule(HANDLER, at(f"retry:{number}", within))
    rig.pass_time(10)
    rig.store.sent(HANDLER, due(rig.store))

    found = every(rig.store, limit)

    assert found[:2] == ["join:8", "join:2"]
    assert found[-2:] == ["join:9", "join:4"]
    assert sorted(found) == [f"join:{number}" for number in range(10)]


def test_a_page_begins_where_the_last_one_ended_even_if_that_join_is_settled_meanwhile(rig):
    for number in range(6):
        arrive(rig.store, "a", unit=f"join:{number}", within=50)
    first, after = rig.store.pending(HANDLER, 3)
    for unit in first:
        rig.store.begin(claim(unit=unit, attempt=0))
        rig.store.commit(claim(unit=unit, attempt=0), Settlement(unscheduled=[deadline_id(unit)]))

    rest, _ = rig.store.pending(HANDLER, 10, after)

    assert sorted(first + rest) == [f"join:{number}" for number in range(6)]


def test_a_long_schedule_of_other_things_is_read_over_several_pages(redis_rig):
    calendar = f"{redis_rig.prefix}:{{{HANDLER}}}:due"
    redis_rig.client.zadd(calendar, {f"retry:{number}": 5.0 for number in range(6000)})
    redis_rig.client.zadd(calendar, {f"deadline:join:{number}": 5.0 for number in range(1200)})

    assert len(set(every(redis_rig.store, 100))) == 1200

    redis_rig.client.zremrangebylex(calendar, "[deadline", "[deadlinez")
    units, after = redis_rig.store.pending(HANDLER, 10)
    assert units == []
    assert after


# -- what joins wait for ----------------------------------------------------------------------------------------


def test_what_joins_wait_for_is_remembered_and_renewed(store):
    assert store.joins() == {}

    store.describe_joins({"b.b": '{"é": 1}', "a.a": "{}"})
    store.describe_joins({"a.a": '{"new": 1}'})
    store.describe_joins({})

    assert store.joins() == {"a.a": '{"new": 1}', "b.b": '{"é": 1}'}
    assert list(store.joins()) == ["a.a", "b.b"]


def test_a_replay_restores_several_of_a_type_and_what_was_told_of_them(store):
    needs = {"a": None, "b": 0}
    store.begin(claim(unit=UNIT))
    store.commit(claim(unit=UNIT), Settlement(letter=("l-1", "{}")))
    parts = {"a": "<a>", "b/1": "<b/1>", "?b": "2"}

    assert replay(store, HANDLER, "l-1", UNIT, parts, at("replay:l-1"))

    assert arrive(store, "b/1", needs=needs) == ClaimResult(Verdict.WAIT, 2)
    assert arrive(store, "b/2", needs=needs).parts == {"a": "<a>", "b/1": "<b/1>", "b/2": "<b/2>"}


def test_a_settlement_can_be_remembered_for_longer_than_others(rig):
    day = 86_400
    for unit, remember in ((UNIT, 7.0 * day), ("join:ORD-2", 0.0)):
        rig.store.begin(claim(unit=unit, attempt=0))
        rig.store.commit(claim(unit=unit, attempt=0), Settlement(remember=remember))
    rig.pass_time(2 * day)

    assert arrive(rig.store, "a").verdict is Verdict.DONE
    assert arrive(rig.store, "a", unit="join:ORD-2").verdict is Verdict.WAIT


# -- calling off ------------------------------------------------------------------------------------------------


def test_a_message_that_was_called_off_is_not_handed_out(rig):
    rig.store.schedule(HANDLER, at("m", 15))

    assert rig.store.unschedule(HANDLER, "m")

    assert not rig.store.unschedule(HANDLER, "m")
    rig.pass_time(20)
    assert due(rig.store) == []
    assert rig.store.backlog(HANDLER).total == 0


def test_what_is_due_and_was_handed_to_nobody_can_be_called_off(rig):
    rig.store.schedule(HANDLER, at("m", 15))
    rig.pass_time(20)

    assert rig.store.unschedule(HANDLER, "m")


def test_what_was_handed_out_cannot_be_called_off_any_more(rig):
    rig.store.schedule(HANDLER, at("m"))
    assert due(rig.store) == ["m"]

    assert not rig.store.unschedule(HANDLER, "m")

    # Whoever has it may have died before sending it; it comes again, and may have been sent all the same.
    rig.pass_time(30)
    assert not rig.store.unschedule(HANDLER, "m")
    assert due(rig.store) == ["m"]
    rig.store.sent(HANDLER, ["m"])
    assert not rig.store.unschedule(HANDLER, "m")


def test_a_deadline_that_was_sent_cannot_be_called_off_and_its_join_is_still_found(rig):
    arrive(rig.store, "a")
    rig.pass_time(WITHIN + 5)
    assert due(rig.store) == [deadline_id(UNIT)]
    rig.store.sent(HANDLER, [deadline_id(UNIT)])

    assert not rig.store.unschedule(HANDLER, deadline_id(UNIT))

    assert rig.store.look(HANDLER, UNIT).is_overdue


def test_a_deadline_that_was_sent_too_late_leaves_that_of_the_next_round_in_force(rig):
    join_round(rig.store, "a/1")
    rig.pass_time(WITHIN + 5)
    assert due(rig.store) == [deadline_id(UNIT)]
    rig.store.begin(claim("C", UNIT))
    settle_round(rig.store, "1", token="C")
    join_round(rig.store, "a/2")

    rig.store.sent(HANDLER, [deadline_id(UNIT)])

    assert not rig.store.look(HANDLER, UNIT).is_overdue
    rig.pass_time(WITHIN + 5)
    assert due(rig.store) == [deadline_id(UNIT)]


def test_what_was_called_off_can_be_scheduled_again(rig):
    rig.store.schedule(HANDLER, Scheduled("m", Message("", HANDLER, b"first"), 0))
    rig.store.unschedule(HANDLER, "m")
    rig.store.schedule(HANDLER, Scheduled("m", Message("", HANDLER, b"second"), 0))

    assert [message.body for _, message in rig.store.due(HANDLER, 10, 25)] == [b"second"]


def test_a_message_is_either_handed_out_or_called_off(store):
    for number in range(30):
        store.schedule(HANDLER, at(f"m{number}"))

    def race(worker: int) -> list[str]:
        if worker % 2:
            return due(store, limit=10)
        return [f"m{number}" for number in range(30) if store.unschedule(HANDLER, f"m{number}")]

    taken = [key for keys in at_once(6, race) for key in keys]

    assert len(taken) == len(set(taken)) == 30


def test_whether_somebody_looks_into_a_schedule_is_known(rig):
    assert not rig.store.tended("delayed")

    rig.store.tend("delayed", 35)
    rig.pass_time(20)
    assert rig.store.tended("delayed")
    assert not rig.store.tended("another")

    rig.pass_time(20)
    assert not rig.store.tended("delayed")


# -- whatever happens to a join ---------------------------------------------------------------------------------


@dataclass
class Model:
    """A join in plain words: one a and two of b, of which it needs what ``at_least`` says."""

    at_least: int
    parts: list[str] = field(default_factory=list)
    done: bool = False
    owner: str | None = None
    settled: int = 0
    tally: dict[str, int] = field(default_factory=lambda: {"late": 0, "duplicate": 0, "surplus": 0})
    firings: int = 0

    def full(self, kind: str) -> bool:
        return sum(name.startswith(kind) for name in self.parts) >= {"a": 1, "b": 2}[kind]

    @property
    def complete(self) -> bool:
        return self.full("a") + self.full("b") >= self.at_least

    def arrive(self, name: str, attempt: int) -> str:
        if self.done or (self.complete and name not in self.parts):
            self.tally["late"] += 1
            return "done"
        if name in self.parts and not self.complete and attempt <= 1:
            self.tally["duplicate"] += 1
        elif name not in self.parts and self.full(name[0]):
            self.tally["surplus"] += 1
        elif name not in self.parts:
            self.parts.append(name)
        if not self.complete:
            self.settled = 0
        return self.begin(attempt) if self.complete else "wait"

    def begin(self, attempt: int) -> str:
        if self.done or 0 < attempt <= self.settled:
            return "done"
        return "busy" if self.owner else "run"


class JoinMachine(RuleBasedStateMachine):
    """Parts, cancellations, deadlines, crashes, failures and replays in any order, against the model."""

    make_rig: Callable[[], Any]
    #: Whether the copy of a signal is in flight on the very server, so that its claim ends with its worker.
    in_flight = False
    at_least = 2

    def __init__(self) -> None:
        super().__init__()
        self.rig = self.make_rig()
        self.store: Store = self.rig.store
        self.model = Model(self.at_least)
        self.letters: list[tuple[str, list[str], int]] = []
        self.count = 0

    def teardown(self) -> None:
        if isinstance(self.rig, RedisRig):
            self.rig.close()

    def token(self) -> str:
        self.count += 1
        return f"T{self.count}"

    def claimed(self, result: ClaimResult, expected: str, token: str) -> None:
        verdict = "run" if result.verdict is Verdict.POISON else result.verdict.value
        assert verdict == expected, (result, self.model)
        if expected == "run":
            assert sorted(result.parts) == sorted(self.model.parts)
            self.model.owner = token

    @rule(name=st.sampled_from(["a", "b/1", "b/2", "b/3"]), attempt=st.sampled_from([1, 1, 1, 2, 3]))
    def arrive(self, name, attempt):
        token = self.token()
        expected = self.model.arrive(name, attempt)
        self.claimed(arrive(self.store, name, token, attempt, at_least=self.at_least), expected, token)

    @rule()
    def a_signal(self):
        """A cancellation, a deadline, or somebody's wish to fire: each begins the unit as it is."""
        token = self.token()
        if self.in_flight:
            # The tag of a delivery, which is in flight for its owner.
            token = f"{OWNER}:{token}"
            self.rig.client.hset(self.inflight, token, "a copy")
        result = self.store.begin(claim(token, UNIT, 0))
        self.claimed(result, self.model.begin(0), token)
        if self.in_flight and self.model.owner != token:
            self.rig.client.hdel(self.inflight, token)

    @property
    def inflight(self) -> str:
        return self.rig.broker.inflight(OWNER)

    @precondition(lambda self: self.in_flight and self.model.owner)
    @rule()
    def a_worker_takes_long(self):
        """What a live consumer has in flight is busy, however long that takes; a part has a lease that runs out."""
        held = self.rig.client.hexists(self.inflight, self.model.owner)
        self.rig.pass_time(40)
        if not held:
            self.model.owner = None

    @rule(attempt=st.sampled_from([0, 1, 2, 3]))
    def succeed(self, attempt):
        if owner := self.model.owner:
            assert self.store.commit(claim(owner, UNIT, attempt), DONE).outcome is Outcome.OK
            self.model.firings += 1
            self.model.done, self.model.owner, self.model.parts = True, None, []

    @rule(attempt=st.sampled_from([0, 1, 2]))
    def fail(self, attempt):
        if owner := self.model.owner:
            assert self.store.commit(claim(owner, UNIT, attempt), AGAIN).outcome is Outcome.OK
            self.model.owner = None
            self.model.settled = max(self.model.settled, attempt)

    @rule()
    def bury(self):
        if owner := self.model.owner:
            letter = self.token()
            settlement = Settlement(unscheduled=DONE.unscheduled, letter=(letter, letter))
            assert self.store.commit(claim(owner, UNIT), settlement).outcome is Outcome.OK
            self.letters.append((letter, self.model.parts))
            self.model.done, self.model.owner, self.model.parts = True, None, []

    @rule()
    def replay(self):
        if self.letters and self.model.done:
            letter, parts = self.letters.pop()
            texts = {name: f"<{name}>" for name in parts}
            assert replay(self.store, HANDLER, letter, UNIT, texts, at(f"replay:{letter}"))
            self.model.done, self.model.settled, self.model.parts = False, 0, list(parts)

    @rule()
    def the_worker_dies(self):
        self.rig.pass_time(40)
        if self.in_flight:
            self.rig.client.delete(self.inflight)
        self.model.owner = None

    @rule()
    def a_zombie_commits(self):
        outcome = self.store.commit(claim("zombie", UNIT), DONE).outcome
        if self.model.done:
            assert outcome is Outcome.ALREADY
        else:
            # It is told apart whether somebody else has the join, or had it, or nobody ever did.
            assert outcome in (Outcome.STALE, Outcome.LOST)

    @rule(send=st.booleans())
    def deadlines_fall_due(self, send):
        keys = due(self.store)
        if send:
            self.store.sent(HANDLER, keys)

    @invariant()
    def what_is_pending_is_found(self):
        seen = self.store.look(HANDLER, UNIT)
        assert self.store.pending(HANDLER, 10)[0] == ([UNIT] if seen else [])
        if seen:
            assert not self.model.done
            assert sorted(seen.parts) == sorted(self.model.parts)
            assert bool(seen.lease) == bool(self.model.owner)

    @invariant()
    def what_did_not_count_is_counted(self):
        assert {"late": 0, "duplicate": 0, "surplus": 0} | self.store.tally(HANDLER) == self.model.tally


@pytest.mark.parametrize("at_least", [1, 2])
@pytest.mark.parametrize("kind", ["memory", "redis", "fused"])
def test_a_join_does_as_the_model_says_whatever_happens_to_it(redis_url: str, kind, at_least):
    def make() -> Any:
        if kind == "memory":
            return MemoryRig()
        return RedisRig(redis_url, f"j{uuid4().hex[:8]}", fused=kind == "fused")

    about: dict[str, Any] = {"make_rig": staticmethod(make), "at_least": at_least, "in_flight": kind == "fused"}
    # Hypothesis looks for the source of the class, and would parse this file. That was a SystemError once, with Python
    # 3.11.7 ("AST constructor recursion depth mismatch"): other threads run meanwhile.
    about["__module__"] = "of no file"
    machine = type("Machine", (JoinMachine,), about)
    run_state_machine_as_test(
        machine,
        settings=settings(
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )


# -- roles, of stories --------------------------------------------------------------------------------------------


def play(store: Store, role: str, name: str, token: str = "A") -> ClaimResult:
    """An event of a story: it counts by its role, and is kept under its type."""
    told = Arrival(role, name, f"<{name}>", {"begin": None, "end": None}, 2, WITHIN)
    return store.arrive(claim(token, UNIT), told)


@pytest.mark.parametrize("order", ["begin step end", "end step begin", "step end begin"])
def test_parts_that_count_by_their_role_are_kept_by_their_type(store, order):
    *first, last = order.split()
    for role in first:
        assert play(store, role, f"order.{role}").verdict is Verdict.WAIT

    begun = play(store, last, f"order.{last}")

    assert (begun.verdict, begun.parts.keys()) == (Verdict.RUN, {"order.begin", "order.step", "order.end"})


def test_a_second_event_of_a_role_is_not_kept_and_one_of_no_needed_role_is(store):
    for role, name in [
        ("end", "a.a"),
        ("end", "b.b"),
        ("step", "c.c"),
        ("step", "c.c"),
        ("step", "d.d"),
        ("end", "a.a"),
    ]:
        assert play(store, role, name).verdict is Verdict.WAIT

    assert list(store.look(HANDLER, UNIT).parts) == ["a.a", "c.c", "d.d"]
    assert play(store, "begin", "e.e").verdict is Verdict.RUN


def test_a_part_that_came_in_a_role_counts_by_its_type_for_a_new_declaration(store):
    play(store, "begin", "a")

    assert arrive(store, "b", needs={"a": None, "b": None}).parts.keys() == {"a", "b"}


@pytest.mark.parametrize("done", [True, False])
def test_a_commit_counts_once_and_only_if_it_holds(store, done):
    for name in ("a", "b/1", "b/2"):
        arrive(store, name)
    settlement = Settlement(done=done, counted="ended late")

    assert store.commit(claim("other", UNIT), settlement).outcome is Outcome.STALE
    assert store.tally(HANDLER) == {}
    assert store.commit(claim("A", UNIT), settlement).outcome is Outcome.OK
    assert store.commit(claim("A", UNIT), settlement).outcome is not Outcome.OK
    assert store.tally(HANDLER) == {"ended late": 1}


def test_a_commit_that_counts_also_does_everything_else(store):
    for name in ("a", "b/1", "b/2"):
        arrive(store, name)
    letter, later = ("l-1", "{}"), at("s-1", 10)

    settlement = Settlement(
        letter=letter, scheduled=[later], unscheduled=[deadline_id(UNIT)], took_part=["e-1"], counted="x"
    )
    assert store.commit(claim("A", UNIT), settlement).outcome is Outcome.OK

    assert (store.letters(HANDLER), store.tally(HANDLER)) == (["{}"], {"x": 1})
    assert store.backlog(HANDLER).total == 1
