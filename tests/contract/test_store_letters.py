"""The promises of every store: a dead letter is kept until it is discarded or replayed."""

import time
from datetime import timedelta

import pytest

from choreo import Terms
from choreo.store import ClaimResult, Settlement, Verdict
from choreo.store.redis import RedisStore
from tests.contract.rigs import (
    DEADLINE,
    HANDLER,
    arrive,
    at,
    at_once,
    buried,
    claim,
    due,
    replay,
    settle,
)


def test_a_letter_is_kept_until_it_is_discarded(store):
    buried(store)

    assert store.letters(HANDLER) == ['{"é": 1}']
    assert store.letter(HANDLER, "l-1") == '{"é": 1}'
    assert store.letter(HANDLER, "?") is None
    assert store.letter("payment.charge", "l-1") is None

    assert store.discard(HANDLER, "l-1")
    assert not store.discard(HANDLER, "l-1")
    assert store.letters(HANDLER) == []


def test_letters_come_oldest_first(store):
    for name in ("l-9", "l-1", "l-5"):
        buried(store, name, unit=name, text=name)
        time.sleep(0.002)  # they are told apart by the millisecond

    assert store.letters(HANDLER) == ["l-9", "l-1", "l-5"]


def test_the_times_of_the_oldest_and_the_newest_letter(store):
    assert store.letter_times(HANDLER) is None
    before = store.now()
    buried(store, "l-1", unit="l-1", text="l-1")
    time.sleep(0.02)
    store.add_letter(HANDLER, "l-2", "{}")

    first, last = store.letter_times(HANDLER)
    assert before - 0.002 <= first <= last <= store.now()
    store.discard(HANDLER, "l-1")
    assert store.letter_times(HANDLER) == (last, last)


def test_the_newest_letters_come_with_their_times(store):
    assert store.newest_letters(HANDLER, 2) == []
    for name in ("l-9", "l-1", "l-5"):
        buried(store, name, unit=name, text=name)
        time.sleep(0.002)  # they are told apart by the millisecond

    found = store.newest_letters(HANDLER, 2)

    assert [text for _, text in found] == ["l-1", "l-5"]
    assert found[0][0] <= found[1][0] == store.letter_times(HANDLER)[1]
    assert len(store.newest_letters(HANDLER, 10)) == 3


def test_what_cannot_be_read_is_buried_without_a_unit_together_with_its_notice(store):
    store.add_letter(HANDLER, "l-1", "{}", [at("notice:l-1")])

    assert store.letters(HANDLER) == ["{}"]
    assert due(store) == ["notice:l-1"]


def test_a_replay_forgets_what_was_settled_and_schedules_the_message(store):
    store.begin(claim(attempt=6))
    settle(store, claim(attempt=6), Settlement(letter=("l-1", "{}")))

    assert replay(store, HANDLER, "l-1", "e-1", {}, at("replay:l-1"))

    assert store.letters(HANDLER) == []
    assert due(store) == ["replay:l-1"]
    assert store.begin(claim("B", attempt=1)) == ClaimResult(Verdict.RUN, deliveries=1)


def test_a_replay_restores_the_parts_of_a_join(store):
    arrive(store, "a")
    arrive(store, "b")
    settle(store, claim(unit="join:ORD-1"), Settlement(letter=("l-1", "{}")))

    assert replay(store, HANDLER, "l-1", "join:ORD-1", {"a": "<a>", "b": "<b>"}, at("replay:l-1"))

    assert arrive(store, "a", "B") == ClaimResult(Verdict.RUN, deliveries=1, parts={"a": "<a>", "b": "<b>"})


def test_a_replayed_join_that_is_still_incomplete_has_a_deadline_again(rig):
    arrive(rig.store, "a")
    due(rig.store)
    rig.store.begin(claim("D", "join:ORD-1", attempt=0))
    settle(rig.store, claim("D", "join:ORD-1", attempt=0), Settlement(letter=("l-1", "{}"), unscheduled=[DEADLINE]))
    replay(rig.store, HANDLER, "l-1", "join:ORD-1", {"a": "<a>"}, at("replay:l-1"))
    rig.store.sent(HANDLER, ["replay:l-1"])

    assert arrive(rig.store, "a", "B").verdict is Verdict.WAIT

    rig.pass_time(100)
    assert due(rig.store) == [DEADLINE]


def test_what_was_never_a_unit_can_be_replayed_too(store):
    store.add_letter(HANDLER, "l-1", "{}")

    assert replay(store, HANDLER, "l-1", None, {}, at("replay:l-1"))
    assert due(store) == ["replay:l-1"]


def test_a_letter_is_replayed_once(store):
    buried(store)

    answers = at_once(6, lambda _: replay(store, HANDLER, "l-1", "e-1", {}, at("replay:l-1")))

    assert sorted(answers) == [False] * 5 + [True]
    assert store.backlog(HANDLER).total == 1


def test_a_replay_of_what_is_gone_changes_nothing(store):
    buried(store)
    store.discard(HANDLER, "l-1")

    assert not replay(store, HANDLER, "l-1", "e-1", {"a": "<a>"}, at("replay:l-1"))

    assert store.begin(claim("B")).verdict is Verdict.DONE
    assert store.backlog(HANDLER).total == 0


@pytest.mark.parametrize("retention", [timedelta(hours=5), timedelta(days=7)])
def test_a_replay_by_a_program_with_other_terms_forgets_what_was_settled_as_well(redis_rig, redis_url, retention):
    # The command line knows nothing of the terms of the service whose letter it replays.
    owner = RedisStore(redis_url, Terms(retention=retention), redis_rig.prefix)
    buried(owner)
    assert owner.begin(claim("B")).verdict is Verdict.DONE

    assert replay(redis_rig.store, HANDLER, "l-1", "e-1", {}, at("replay:l-1"))

    assert owner.begin(claim("B")).verdict is Verdict.RUN
