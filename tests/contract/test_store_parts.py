"""The promises of every store to a join of two events."""

import pytest

from choreo.store import ClaimResult, Outcome, Settlement, Verdict
from tests.contract.rigs import (
    AGAIN,
    DEADLINE,
    DONE,
    HANDLER,
    LEASE,
    OWNER,
    arrive,
    at_once,
    claim,
    due,
    part_of,
    settle,
)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_join_waits_until_its_last_part_is_there_and_runs_with_all_of_them(store, order):
    first, last = order

    waiting = arrive(store, first)
    complete = arrive(store, last)

    assert (waiting.verdict, waiting.deliveries) == (Verdict.WAIT, 1)
    assert complete == ClaimResult(Verdict.RUN, deliveries=1, parts={"a": "<a>", "b": "<b>"})


def test_a_part_that_comes_twice_is_kept_as_it_was_and_completes_nothing(store):
    arrive(store, "a")

    again = store.arrive(claim("B", "join:ORD-1"), part_of("a", "<another>"))

    assert (again.verdict, again.deliveries) == (Verdict.WAIT, 1)
    assert arrive(store, "b").parts == {"a": "<a>", "b": "<b>"}


def test_joins_are_apart_by_their_key(store):
    arrive(store, "a", unit="join:ORD-1")

    assert arrive(store, "b", unit="join:ORD-2").verdict is Verdict.WAIT


def test_while_one_worker_runs_the_join_the_others_are_busy(store):
    arrive(store, "a", "A")
    arrive(store, "b", "B")

    assert arrive(store, "a", "C").verdict is Verdict.BUSY
    assert store.begin(claim("D", "join:ORD-1", attempt=0)).verdict is Verdict.BUSY


def test_a_part_that_comes_again_after_a_crash_gets_all_parts_out_again(rig):
    arrive(rig.store, "a", "A")
    arrive(rig.store, "b", "B")
    rig.pass_time(40)

    result = arrive(rig.store, "b", "C")

    assert result == ClaimResult(Verdict.RUN, deliveries=2, parts={"a": "<a>", "b": "<b>"})


def test_a_failed_join_keeps_its_parts_for_the_next_attempt(store):
    arrive(store, "a", "A")
    arrive(store, "b", "B")
    settle(store, claim("B", "join:ORD-1"), AGAIN)

    assert arrive(store, "b", "C", attempt=1).verdict is Verdict.DONE
    assert arrive(store, "b", "C", attempt=2).parts == {"a": "<a>", "b": "<b>"}


def test_a_part_that_comes_after_the_join_is_settled_changes_nothing(store):
    arrive(store, "a", "A")
    arrive(store, "b", "B")
    settle(store, claim("B", "join:ORD-1"), DONE)

    assert arrive(store, "a", "C").verdict is Verdict.DONE
    assert arrive(store, "b", "C").verdict is Verdict.DONE
    assert store.begin(claim("C", "join:ORD-1", attempt=0)).parts == {}


@pytest.mark.parametrize("before", ["", "a", "b"])
def test_a_cancelled_join_stays_cancelled(store, before):
    for part in before:
        arrive(store, part, "P")

    store.begin(claim("X", "join:ORD-1", attempt=0))
    assert settle(store, claim("X", "join:ORD-1", attempt=0), DONE) is Outcome.OK

    assert [arrive(store, part, "Q").verdict for part in "ab"] == [Verdict.DONE, Verdict.DONE]


def test_a_deadline_gets_the_parts_that_are_there(store):
    arrive(store, "a")

    result = store.begin(claim("D", "join:ORD-1", attempt=0))

    assert result == ClaimResult(Verdict.RUN, deliveries=1, parts={"a": "<a>"})


def test_the_first_part_sets_the_deadline_and_no_other_moves_it(rig):
    arrive(rig.store, "a")
    rig.pass_time(90)
    arrive(rig.store, "a", "B")
    assert due(rig.store) == []

    rig.pass_time(10)
    assert due(rig.store) == [DEADLINE]


def test_the_deadline_goes_with_the_commit(store):
    arrive(store, "a")
    arrive(store, "b", "B")
    assert store.backlog(HANDLER).total == 1

    settle(store, claim("B", "join:ORD-1"), Settlement(unscheduled=[DEADLINE]))

    assert store.backlog(HANDLER).total == 0


def test_only_what_is_needed_completes_a_join(store):
    store.arrive(claim("A", "join:ORD-1"), part_of("of an earlier version"))

    assert arrive(store, "a").verdict is Verdict.WAIT
    assert arrive(store, "b").verdict is Verdict.RUN


def test_parts_that_arrive_at_once_fire_the_join_once(store):
    for unit in range(10):
        answers = at_once(8, lambda n, u=unit: arrive(store, "ab"[n % 2], f"T{n}", unit=f"join:{u}"))

        running = [result for result in answers if result.verdict is Verdict.RUN]
        assert [result.parts for result in running] == [{"a": "<a>", "b": "<b>"}]


def test_a_join_that_is_claimed_by_what_a_worker_has_in_flight_is_seen_to_be_at_work(fused_rig):
    inflight, tag = fused_rig.broker.inflight(OWNER), f"{OWNER}:1"
    arrive(fused_rig.store, "a")
    fused_rig.client.hset(inflight, tag, "a copy")
    fused_rig.store.begin(claim(tag, "join:ORD-1", attempt=0))
    assert fused_rig.store.look(HANDLER, "join:ORD-1").lease == LEASE

    fused_rig.client.hdel(inflight, tag)
    assert fused_rig.store.look(HANDLER, "join:ORD-1").lease == 0
