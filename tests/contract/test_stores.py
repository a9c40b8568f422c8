"""The promises of the store, kept by the one in memory and by the one in Redis."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Protocol
from uuid import uuid4

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from choreo import Terms
from choreo.errors import ChoreoError, StoreError
from choreo.local.server import EmbeddedServer
from choreo.message import Message
from choreo.store import Arrival, Begun, Claim, Committed, Outcome, Scheduled, Settlement, Store, Verdict
from choreo.store.beside import StoreBesideBroker
from choreo.store.memory import MemoryStore
from choreo.store.redis import RedisStore

HANDLER = "driver.assign"
# Time moves in steps of 10 seconds here and everything lasts an odd 5: a slow machine changes no answer.
LEASE, HOLD, WITHIN = 35.0, 25.0, 95.0
TERMS = Terms(lease=timedelta(seconds=LEASE), retention=timedelta(days=1), max_deliveries=3)
DONE = Settlement()
AGAIN = Settlement(done=False)


class Rig(Protocol):
    """A store, and a way to let time pass without waiting."""

    store: Store

    def pass_time(self, seconds: float) -> None: ...


class MemoryRig:
    def __init__(self) -> None:
        self._now = 1000.0
        self.store = MemoryStore(TERMS, lambda: self._now)

    def pass_time(self, seconds: float) -> None:
        self._now += seconds


class RedisRig:
    """Redis has no clock that a test could move; so everything that is kept there is moved back instead."""

    def __init__(self, url: str, prefix: str, *, beside: bool = False) -> None:
        self.store = (
            StoreBesideBroker(url, TERMS, prefix, "choreo.events", f"{prefix}:broker:")
            if beside
            else RedisStore(url, TERMS, prefix)
        )
        self.prefix = prefix
        self.client: Any = redis.Redis.from_url(url, decode_responses=True)

    def find(self, kind: str = "") -> list[str]:
        pattern = f"{self.prefix}:{{*}}:{kind}*" if kind else f"{self.prefix}:*"
        return sorted(self.client.scan_iter(pattern, count=1000))

    def pass_time(self, seconds: float) -> None:
        moved = round(seconds * 1000)
        for key in self.find("unit"):
            if until := self.client.hget(key, "until"):
                self.client.hset(key, "until", int(until) - moved)
        for key in self.find("due"):
            for member, score in self.client.zrange(key, 0, -1, withscores=True):
                self.client.zincrby(key, -moved if score > 0 else moved, member)
        for key in self.find("parts"):
            for name, text in self.client.hgetall(key).items():
                if name[0] not in "#?":
                    arrived, _, part = text.partition(" ")
                    self.client.hset(key, name, f"{int(arrived) - moved} {part}")
        for key in self.find():
            if (left := self.client.pttl(key)) > 0:
                self.client.pexpire(key, max(left - moved, 1))
                if left <= moved:
                    self.client.delete(key)

    def close(self) -> None:
        for key in self.find():
            self.client.delete(key)
        self.client.close()


@pytest.fixture
def redis_rig(redis_url: str, namespace: str) -> Iterator[RedisRig]:
    rig = RedisRig(redis_url, f"{namespace}:choreo")
    yield rig
    rig.close()


@pytest.fixture
def beside_rig(redis_url: str, namespace: str) -> Iterator[RedisRig]:
    rig = RedisRig(redis_url, f"{namespace}:choreo", beside=True)
    yield rig
    rig.close()


@pytest.fixture(params=["memory", "redis", "beside"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return MemoryRig() if request.param == "memory" else request.getfixturevalue(f"{request.param}_rig")


@pytest.fixture
def store(rig: Rig) -> Store:
    return rig.store


def claim(token: str = "A", unit: str = "e-1", attempt: int = 1, handler: str = HANDLER) -> Claim:
    return Claim(handler, unit, token, attempt)


def message(text: str = "x") -> Message:
    return Message("", HANDLER, text.encode(), {"task": "choreo.event"})


def at(key: str, delay: float = 0.0) -> Scheduled:
    return Scheduled(key, message(key), delay)


#: The schedule id of the deadline of join:ORD-1.
DEADLINE = "deadline:join:ORD-1"


def part_of(part: str, text: str = "", within: float = WITHIN) -> Arrival:
    """A part of a join that needs one a and one b."""
    return Arrival(part, part, text or f"<{part}>", {"a": None, "b": None}, 2, within)


def settle(store: Store, settled: Claim, settlement: Settlement) -> Outcome:
    return store.commit(settled, settlement).outcome


def arrive(store: Store, part: str, token: str = "A", attempt: int = 1, unit: str = "join:ORD-1") -> Begun:
    return store.arrive(claim(token, unit, attempt), part_of(part))


def due(store: Store, limit: int = 100) -> list[str]:
    return [key for key, _ in store.due(HANDLER, limit, HOLD)]


# -- begin and commit -------------------------------------------------------------------------------------------


def test_a_unit_is_begun_by_one_and_settled_once(store):
    assert store.begin(claim()) == Begun(Verdict.RUN, deliveries=1)

    assert settle(store, claim(), DONE) is Outcome.OK

    assert settle(store, claim(), DONE) is Outcome.ALREADY
    assert store.begin(claim("B")).verdict is Verdict.DONE


def test_units_are_apart_by_event_and_by_handler(store):
    store.begin(claim())

    assert store.begin(claim("B", unit="e-2")).verdict is Verdict.RUN
    assert store.begin(claim("B", handler="payment.charge")).verdict is Verdict.RUN


def test_what_another_worker_holds_is_busy_for_the_rest_of_its_lease(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(10)

    begun = rig.store.begin(claim("B"))

    assert begun.verdict is Verdict.BUSY
    assert begun.busy_seconds == pytest.approx(LEASE - 10, abs=4)


def test_a_lease_that_ran_out_goes_to_whoever_asks_next(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(40)

    assert rig.store.begin(claim("B")) == Begun(Verdict.RUN, deliveries=2)


def test_a_worker_that_lost_its_lease_changes_nothing(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(40)
    rig.store.begin(claim("B"))

    settlement = Settlement(scheduled=[at("event:1")], letter=("l-1", "{}"))
    assert settle(rig.store, claim("A"), settlement) is Outcome.STALE

    assert rig.store.scheduled(HANDLER) == 0
    assert rig.store.letters(HANDLER) == []
    assert settle(rig.store, claim("B"), DONE) is Outcome.OK


def test_a_worker_whose_lease_ran_out_but_went_to_nobody_still_owns_it(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(40)

    assert settle(rig.store, claim("A"), DONE) is Outcome.OK


def test_what_was_never_begun_cannot_be_settled(store):
    assert settle(store, claim(), DONE) is Outcome.LOST
    assert store.begin(claim()).verdict is Verdict.RUN


def test_a_lease_can_be_prolonged_by_its_owner_only(rig):
    rig.store.begin(claim("A"))

    for _ in range(3):
        rig.pass_time(30)
        assert rig.store.renew(claim("A"))
        assert not rig.store.renew(claim("B"))

    assert rig.store.begin(claim("B")).verdict is Verdict.BUSY


def test_a_handler_may_run_for_longer_than_the_retention(rig):
    rig.store.begin(claim())
    for _ in range(5):
        rig.pass_time(20_000)
        assert rig.store.renew(claim())
    rig.pass_time(20_000)

    assert settle(rig.store, claim(), DONE) is Outcome.OK


def test_a_lease_that_is_lost_or_settled_cannot_be_prolonged(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(40)
    rig.store.begin(claim("B"))
    assert not rig.store.renew(claim("A"))

    settle(rig.store, claim("B"), DONE)
    assert not rig.store.renew(claim("B"))
    assert not rig.store.renew(claim("C", unit="e-2"))


def test_what_kills_its_workers_is_poison_in_the_end(rig):
    verdicts = []
    for token in "ABCDE":
        begun = rig.store.begin(claim(token))
        verdicts.append((begun.verdict, begun.deliveries))
        rig.pass_time(40)

    run, poison = Verdict.RUN, Verdict.POISON
    assert verdicts == [(run, 1), (run, 2), (run, 3), (poison, 4), (poison, 5)]


def test_poison_is_held_under_a_lease_like_anything_else_and_can_be_settled(rig):
    for token in "ABC":
        rig.store.begin(claim(token))
        rig.pass_time(40)

    assert rig.store.begin(claim("D")).verdict is Verdict.POISON
    assert rig.store.begin(claim("E")).verdict is Verdict.BUSY
    assert settle(rig.store, claim("D"), Settlement(letter=("l-1", "{}"))) is Outcome.OK
    assert rig.store.letters(HANDLER) == ["{}"]


# -- attempts ---------------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_settled_and_the_next_may_begin_at_once(store):
    store.begin(claim("A", attempt=1))

    assert settle(store, claim("A", attempt=1), AGAIN) is Outcome.OK

    assert store.begin(claim("B", attempt=1)).verdict is Verdict.DONE
    assert store.begin(claim("B", attempt=2)) == Begun(Verdict.RUN, deliveries=1)


def test_an_attempt_that_comes_again_after_a_later_one_is_done(store):
    for attempt in (1, 2, 3):
        store.begin(claim(attempt=attempt))
        settle(store, claim(attempt=attempt), AGAIN)

    assert [store.begin(claim("Z", attempt=attempt)).verdict for attempt in (1, 2, 3)] == [Verdict.DONE] * 3
    assert store.begin(claim("Z", attempt=4)).verdict is Verdict.RUN


def test_an_attempt_cannot_be_settled_twice(store):
    store.begin(claim())
    settle(store, claim(), Settlement(done=False, scheduled=[at("retry:1")]))

    assert settle(store, claim(), Settlement(done=False, scheduled=[at("retry:2")])) is Outcome.STALE
    assert due(store) == ["retry:1"]


def test_what_is_no_attempt_leaves_the_attempts_alone(store):
    store.begin(claim("A", attempt=0))
    settle(store, claim("A", attempt=0), AGAIN)

    assert store.begin(claim("B", attempt=0)).verdict is Verdict.RUN
    settle(store, claim("B", attempt=0), AGAIN)
    assert store.begin(claim("C", attempt=1)).verdict is Verdict.RUN


# -- joins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_join_waits_until_its_last_part_is_there_and_runs_with_all_of_them(store, order):
    first, last = order

    waiting = arrive(store, first)
    complete = arrive(store, last)

    assert (waiting.verdict, waiting.deliveries) == (Verdict.WAIT, 1)
    assert complete == Begun(Verdict.RUN, deliveries=1, parts={"a": "<a>", "b": "<b>"})


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

    begun = arrive(rig.store, "b", "C")

    assert begun == Begun(Verdict.RUN, deliveries=2, parts={"a": "<a>", "b": "<b>"})


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

    begun = store.begin(claim("D", "join:ORD-1", attempt=0))

    assert begun == Begun(Verdict.RUN, deliveries=1, parts={"a": "<a>"})


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
    assert store.scheduled(HANDLER) == 1

    settle(store, claim("B", "join:ORD-1"), Settlement(unscheduled=[DEADLINE]))

    assert store.scheduled(HANDLER) == 0


def test_only_what_is_needed_completes_a_join(store):
    store.arrive(claim("A", "join:ORD-1"), part_of("of an earlier version"))

    assert arrive(store, "a").verdict is Verdict.WAIT
    assert arrive(store, "b").verdict is Verdict.RUN


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Call from that many threads at the same moment."""
    barrier, answers = threading.Barrier(count), []

    def run(number: int) -> None:
        barrier.wait()
        answers.append(call(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_of_many_who_begin_at_once_one_runs(store):
    for unit in range(10):
        verdicts = [begun.verdict for begun in at_once(8, lambda n, u=unit: store.begin(claim(f"T{n}", f"e-{u}")))]

        assert sorted(verdicts) == [Verdict.BUSY] * 7 + [Verdict.RUN]


def test_parts_that_arrive_at_once_fire_the_join_once(store):
    for unit in range(10):
        answers = at_once(8, lambda n, u=unit: arrive(store, "ab"[n % 2], f"T{n}", unit=f"join:{u}"))

        running = [begun for begun in answers if begun.verdict is Verdict.RUN]
        assert [begun.parts for begun in running] == [{"a": "<a>", "b": "<b>"}]


# -- the schedule -----------------------------------------------------------------------------------------------


def test_a_message_comes_out_as_it_went_in_when_it_is_due(rig):
    odd = Message("choreo.events", "order.placed", b"\xff\x00", {"n": None, "é": [1]}, "text/plain", "binary")
    rig.store.schedule(HANDLER, Scheduled("m", odd, 15))
    assert rig.store.due(HANDLER, 10, HOLD) == []

    rig.pass_time(20)

    assert rig.store.due(HANDLER, 10, HOLD) == [("m", odd)]


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
    assert rig.store.scheduled(HANDLER) == 0


def test_scheduling_the_same_id_again_changes_nothing(rig):
    rig.store.schedule(HANDLER, Scheduled("m", message("first"), 15))
    rig.store.schedule(HANDLER, Scheduled("m", message("second"), 0))

    assert due(rig.store) == []
    rig.pass_time(20)
    assert rig.store.due(HANDLER, 10, HOLD) == [("m", message("first"))]


def test_schedules_are_apart_by_owner(store):
    store.schedule("payment.charge", at("m"))

    assert due(store) == []
    assert store.scheduled(HANDLER) == 0
    assert store.scheduled("payment.charge") == 1


def test_of_many_who_ask_at_once_one_gets_the_message(store):
    for number in range(20):
        store.schedule(HANDLER, at(f"m{number}"))

    taken = [key for keys in at_once(6, lambda _: due(store, limit=5)) for key in keys]

    assert len(taken) == len(set(taken)) == 20


def test_a_commit_schedules_what_follows_and_drops_what_is_no_longer_wanted(rig):
    rig.store.schedule(HANDLER, at("deadline", 15))
    rig.store.begin(claim())

    settle(
        rig.store, claim(), Settlement(scheduled=[at("event:1", 5), at("event:2", 5)], unscheduled=["deadline", "?"])
    )

    rig.pass_time(20)
    assert due(rig.store) == ["event:1", "event:2"]


# The store beside the broker sends with the commit itself, and has no outbox: see test_claims.py for what it does.
@pytest.mark.parametrize("rig", ["memory", "redis"], indirect=True)
def test_what_leaves_with_a_commit_waits_in_the_outbox_until_it_is_sent(rig):
    leaving = {"event:1": message("1"), "event:2": message("2")}
    rig.store.begin(claim())

    committed = rig.store.commit(claim(), Settlement(sent=leaving))

    assert committed == Committed(Outcome.OK, unsent=leaving)
    # The worker that committed sends it at once; the others leave it alone for a moment.
    assert due(rig.store) == []
    rig.store.sent(HANDLER, ["event:1"])
    rig.pass_time(10)
    assert due(rig.store) == ["event:2"]


def test_nothing_leaves_with_a_commit_that_comes_too_late(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(40)
    rig.store.begin(claim("B"))

    committed = rig.store.commit(claim("A"), Settlement(sent={"event:1": message()}))

    assert (committed.outcome, dict(committed.unsent)) == (Outcome.STALE, {})
    assert rig.store.scheduled(HANDLER) == 0


def test_nothing_is_sent_that_was_not_asked_for(store):
    store.schedule(HANDLER, at("m"))

    store.sent(HANDLER, [])
    store.sent(HANDLER, ["?"])

    assert store.scheduled(HANDLER) == 1


# -- dead letters -----------------------------------------------------------------------------------------------


def buried(store: Store, letter_id: str = "l-1", unit: str = "e-1", text: str = '{"é": 1}') -> None:
    store.begin(claim(unit=unit))
    assert settle(store, claim(unit=unit), Settlement(letter=(letter_id, text))) is Outcome.OK


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


def test_what_cannot_be_read_is_buried_without_a_unit_together_with_its_notice(store):
    store.bury(HANDLER, "l-1", "{}", [at("notice:l-1")])

    assert store.letters(HANDLER) == ["{}"]
    assert due(store) == ["notice:l-1"]


def test_a_replay_forgets_what_was_settled_and_schedules_the_message(store):
    store.begin(claim(attempt=6))
    settle(store, claim(attempt=6), Settlement(letter=("l-1", "{}")))

    assert store.replay(HANDLER, "l-1", "e-1", {}, at("replay:l-1"))

    assert store.letters(HANDLER) == []
    assert due(store) == ["replay:l-1"]
    assert store.begin(claim("B", attempt=1)) == Begun(Verdict.RUN, deliveries=1)


def test_a_join_that_is_claimed_by_what_a_worker_has_in_flight_is_seen_to_be_at_work(beside_rig):
    inflight = f"{beside_rig.prefix}:broker:inflight"
    signal = Claim(HANDLER, "join:ORD-1", "w:1", 0, (inflight, "w:1"))
    arrive(beside_rig.store, "a")
    beside_rig.client.hset(inflight, "w:1", "a copy")
    beside_rig.store.begin(signal)
    assert beside_rig.store.look(HANDLER, "join:ORD-1").lease == LEASE

    beside_rig.client.hdel(inflight, "w:1")
    assert beside_rig.store.look(HANDLER, "join:ORD-1").lease == 0


@pytest.mark.parametrize("retention", [timedelta(hours=5), timedelta(days=7)])
def test_a_replay_by_a_program_with_other_terms_forgets_what_was_settled_as_well(redis_rig, redis_url, retention):
    # The command line knows nothing of the terms of the service whose letter it replays.
    owner = RedisStore(redis_url, Terms(retention=retention), redis_rig.prefix)
    buried(owner)
    assert owner.begin(claim("B")).verdict is Verdict.DONE

    assert redis_rig.store.replay(HANDLER, "l-1", "e-1", {}, at("replay:l-1"))

    assert owner.begin(claim("B")).verdict is Verdict.RUN


def test_a_replay_restores_the_parts_of_a_join(store):
    arrive(store, "a")
    arrive(store, "b")
    settle(store, claim(unit="join:ORD-1"), Settlement(letter=("l-1", "{}")))

    assert store.replay(HANDLER, "l-1", "join:ORD-1", {"a": "<a>", "b": "<b>"}, at("replay:l-1"))

    assert arrive(store, "a", "B") == Begun(Verdict.RUN, deliveries=1, parts={"a": "<a>", "b": "<b>"})


def test_a_replayed_join_that_is_still_incomplete_has_a_deadline_again(rig):
    arrive(rig.store, "a")
    due(rig.store)
    rig.store.begin(claim("D", "join:ORD-1", attempt=0))
    settle(rig.store, claim("D", "join:ORD-1", attempt=0), Settlement(letter=("l-1", "{}"), unscheduled=[DEADLINE]))
    rig.store.replay(HANDLER, "l-1", "join:ORD-1", {"a": "<a>"}, at("replay:l-1"))
    rig.store.sent(HANDLER, ["replay:l-1"])

    assert arrive(rig.store, "a", "B").verdict is Verdict.WAIT

    rig.pass_time(100)
    assert due(rig.store) == [DEADLINE]


def test_what_was_never_a_unit_can_be_replayed_too(store):
    store.bury(HANDLER, "l-1", "{}")

    assert store.replay(HANDLER, "l-1", None, {}, at("replay:l-1"))
    assert due(store) == ["replay:l-1"]


def test_a_letter_is_replayed_once(store):
    buried(store)

    answers = at_once(6, lambda _: store.replay(HANDLER, "l-1", "e-1", {}, at("replay:l-1")))

    assert sorted(answers) == [False] * 5 + [True]
    assert store.scheduled(HANDLER) == 1


def test_a_replay_of_what_is_gone_changes_nothing(store):
    buried(store)
    store.discard(HANDLER, "l-1")

    assert not store.replay(HANDLER, "l-1", "e-1", {"a": "<a>"}, at("replay:l-1"))

    assert store.begin(claim("B")).verdict is Verdict.DONE
    assert store.scheduled(HANDLER) == 0


# -- handlers ---------------------------------------------------------------------------------------------------


def test_handlers_are_remembered_sorted_and_once(store):
    assert store.handlers() == []

    store.register(["payment.charge", "driver.assign"])
    store.register(["driver.assign"])
    store.register([])

    assert store.handlers() == ["driver.assign", "payment.charge"]


def test_a_store_that_is_there_says_so(store):
    store.ping()


# -- Redis only -------------------------------------------------------------------------------------------------


def test_state_has_a_lifetime_and_what_waits_for_somebody_has_none(redis_rig):
    store, day = redis_rig.store, 86_400_000
    store.begin(claim(unit="running"))
    store.begin(claim(unit="failed"))
    settle(store, claim(unit="failed"), Settlement(done=False, scheduled=[at("retry", 15)]))
    store.begin(claim(unit="renewed"))
    store.renew(claim(unit="renewed"))
    buried(store, unit="buried")
    store.begin(claim(unit="done"))
    settle(store, claim(unit="done"), DONE)
    store.bury(HANDLER, "l-2", "{}", [at("notice")])
    arrive(store, "a", unit="join:waiting")
    arrive(store, "a", unit="join:done")
    arrive(store, "b", unit="join:done")
    settle(store, claim(unit="join:done"), DONE)
    arrive(store, "a", unit="join:done")
    buried(store, "l-3", unit="join:replayed")
    store.replay(HANDLER, "l-3", "join:replayed", {"a": "<a>"}, at("replay"))
    store.register([HANDLER])

    lifetimes = {key.partition("}:")[2] or key: redis_rig.client.pttl(key) for key in redis_rig.find()}

    done = {key: left for key, left in lifetimes.items() if key.startswith("done:")}
    mortal = {key: left for key, left in lifetimes.items() if key.startswith("unit:")}
    immortal = {key: left for key, left in lifetimes.items() if key not in mortal | done}
    assert {"unit:running", "unit:failed", "unit:renewed", "unit:join:done", "unit:buried"} <= set(mortal)
    assert "unit:done" not in mortal
    assert len(done) == 1
    assert all(day - 60_000 < left <= day * 4 / 3 for left in done.values()), done
    assert all(day - 60_000 < left <= day for left in mortal.values()), mortal
    # Parts wait for somebody, too: a service may be down for longer than its joins wait.
    assert {"parts:join:waiting", "parts:join:replayed"} == {key for key in immortal if key.startswith("parts:")}
    others = {key for key in immortal if not key.startswith("parts:")}
    assert others == {"due", "post", "letters", "letters:index", "tally", f"{redis_rig.prefix}:handlers"}
    assert set(immortal.values()) == {-1}


def test_the_keys_of_one_handler_share_a_hash_tag(redis_rig):
    buried(redis_rig.store)
    arrive(redis_rig.store, "a")

    assert redis_rig.find()
    assert all(key.startswith(f"{redis_rig.prefix}:{{{HANDLER}}}:") for key in redis_rig.find())


def test_prefixes_keep_platforms_apart(redis_rig, redis_url):
    other = RedisRig(redis_url, f"{redis_rig.prefix}-other")
    try:
        buried(redis_rig.store)
        redis_rig.store.register([HANDLER])
        redis_rig.store.schedule(HANDLER, at("m"))

        assert other.store.begin(claim("B")).verdict is Verdict.RUN
        assert other.store.letters(HANDLER) == other.store.handlers() == due(other.store) == []
    finally:
        other.close()


EVERY_CALL: dict[str, Callable[[Store], Any]] = {
    "begin": lambda store: store.begin(claim()),
    "arrive": lambda store: arrive(store, "a"),
    "start": lambda store: store.start(claim()),
    "renew": lambda store: store.renew(claim()),
    "commit": lambda store: settle(store, claim(), DONE),
    "schedule": lambda store: store.schedule(HANDLER, at("m")),
    "due": lambda store: store.due(HANDLER, 10, HOLD),
    "sent": lambda store: store.sent(HANDLER, ["m"]),
    "unschedule": lambda store: store.unschedule(HANDLER, "m"),
    "tend": lambda store: store.tend(HANDLER, 10),
    "tended": lambda store: store.tended(HANDLER),
    "now": lambda store: store.now(),
    "waiting": lambda store: store.waiting(HANDLER, 10),
    "look": lambda store: store.look(HANDLER, "join:ORD-1"),
    "tally": lambda store: store.tally(HANDLER),
    "describe_joins": lambda store: store.describe_joins({HANDLER: "{}"}),
    "joins": lambda store: store.joins(),
    "scheduled": lambda store: store.scheduled(HANDLER),
    "bury": lambda store: store.bury(HANDLER, "l-1", "{}"),
    "letters": lambda store: store.letters(HANDLER),
    "letter": lambda store: store.letter(HANDLER, "l-1"),
    "discard": lambda store: store.discard(HANDLER, "l-1"),
    "replay": lambda store: store.replay(HANDLER, "l-1", None, {}, at("m")),
    "register": lambda store: store.register([HANDLER]),
    "handlers": lambda store: store.handlers(),
    "ping": lambda store: store.ping(),
}


@pytest.mark.parametrize("call", EVERY_CALL.values(), ids=EVERY_CALL)
def test_a_store_that_does_not_answer_is_a_store_error_without_its_password(call):
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1/3") as caught:
        call(RedisStore("redis://user:s3cret@127.0.0.1:1/3"))

    assert "s3cret" not in str(caught.value)


def test_a_password_in_the_query_is_not_told_either():
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1") as caught:
        RedisStore("redis://127.0.0.1:1/3?password=s3cret").ping()

    assert "s3cret" not in str(caught.value)


def test_a_wrong_password_is_a_store_error(redis_server: EmbeddedServer):
    with pytest.raises(StoreError, match=f"127.0.0.1:{redis_server.port}") as caught:
        RedisStore(f"redis://:wr0ng@127.0.0.1:{redis_server.port}/0").ping()

    assert "wr0ng" not in str(caught.value)


def test_a_key_of_somebody_else_is_a_store_error_and_changes_nothing(redis_rig):
    redis_rig.client.set(f"{redis_rig.prefix}:{{{HANDLER}}}:unit:e-1", "not a hash")

    with pytest.raises(StoreError, match="WRONGTYPE"):
        redis_rig.store.begin(claim())


@pytest.mark.parametrize("url", ["127.0.0.1:6379", "http://127.0.0.1", ""])
def test_an_address_that_is_none_is_told_as_such(url):
    with pytest.raises(ChoreoError, match="scheme"):
        RedisStore(url).ping()


# -- both against each other ------------------------------------------------------------------------------------


class TwoStores(RuleBasedStateMachine):
    """Whatever workers do, in whatever order: both stores give the same answers."""

    server: EmbeddedServer
    beside = False
    deliveries = Bundle("deliveries")

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryRig()
        self.redis = RedisRig(self.server.url, f"m{uuid4().hex[:8]}", beside=self.beside)
        self.letters: list[tuple[str, str]] = []
        self.count = 0

    def teardown(self) -> None:
        self.redis.close()

    def both(self, call: Callable[[Store], Any]) -> Any:
        ours, theirs = call(self.memory.store), call(self.redis.store)
        if isinstance(ours, Committed):
            assert ours.outcome == theirs.outcome
        elif isinstance(ours, Begun):
            assert ours.busy_seconds == pytest.approx(theirs.busy_seconds, abs=4)
            assert (ours.verdict, ours.deliveries, ours.parts) == (theirs.verdict, theirs.deliveries, theirs.parts)
        else:
            assert ours == theirs
        return ours

    def fresh(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    @initialize(target=deliveries)
    def first_deliveries(self):
        units = [("e-1", 1), ("join:1", 1), ("join:1", 0)]
        return multiple(*[claim(self.fresh("T"), unit, attempt) for unit, attempt in units])

    @rule(target=deliveries, unit=st.sampled_from(["e-1", "join:1"]), attempt=st.integers(0, 3))
    def deliver(self, unit, attempt):
        return claim(self.fresh("T"), unit, attempt)

    @rule(worker=deliveries)
    def begin(self, worker):
        self.both(lambda store: store.begin(worker))

    @rule(worker=deliveries, part=st.sampled_from("aab"))
    def arrive(self, worker, part):
        if worker.unit == "join:1":
            text = self.fresh(part)
            self.both(lambda store: store.arrive(worker, part_of(part, text)))

    @rule(worker=deliveries)
    def renew(self, worker):
        self.both(lambda store: store.renew(worker))

    @rule(worker=deliveries, done=st.booleans(), delay=st.sampled_from([0, 15, 105]))
    def commit(self, worker, done, delay):
        settlement = Settlement(
            done=done, scheduled=[at(self.fresh("s"), delay)], unscheduled=["deadline:join:1"] if done else []
        )
        self.both(lambda store: settle(store, worker, settlement))

    @rule(worker=deliveries)
    def bury(self, worker):
        letter = self.fresh("l")
        if self.both(lambda store: settle(store, worker, Settlement(letter=(letter, letter)))) is Outcome.OK:
            self.letters.append((letter, worker.unit))

    @rule(data=st.data(), parts=st.sampled_from([{}, {"a": "<a>"}, {"a": "<a>", "b": "<b>"}]))
    def replay(self, data, parts):
        if self.letters:
            letter, unit = data.draw(st.sampled_from(self.letters))
            self.both(
                lambda store: store.replay(
                    HANDLER, letter, unit, parts if "join" in unit else {}, at(f"replay:{letter}")
                )
            )

    @rule(seconds=st.sampled_from([10, 20, 50]))
    def wait(self, seconds):
        self.memory.pass_time(seconds)
        self.redis.pass_time(seconds)

    @rule(send=st.booleans())
    def hand_out(self, send):
        keys = self.both(lambda store: sorted(due(store)))
        if send:
            self.both(lambda store: store.sent(HANDLER, keys))

    @invariant()
    def the_same_is_kept(self):
        self.both(lambda store: store.scheduled(HANDLER))
        self.both(lambda store: sorted(store.letters(HANDLER)))


@pytest.mark.parametrize("where", ["elsewhere", "beside the broker"])
def test_both_stores_give_the_same_answers_whatever_the_workers_do(redis_server, where):
    class Machine(TwoStores):
        server = redis_server
        beside = where == "beside the broker"

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=50,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_child_does_not_wait_for_a_lock_that_a_thread_of_its_parent_held(redis_rig):
    # redis-py's pool would, for ever: its lock is inherited as it was, and nobody opens it in the child.
    store = redis_rig.store
    store.ping()

    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with store._client.connection_pool._lock:
            held.set()
            over.wait(30)

    threading.Thread(target=hold).start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        os._exit(0 if store.begin(claim()).verdict is Verdict.RUN else 1)
    over.set()
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
