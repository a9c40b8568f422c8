"""The store in memory and the one in Redis against each other."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
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

from choreo.store import ClaimResult, CommitResult, Outcome, Settlement, Store
from choreo.store.pauses import ANY, Pause
from choreo.store.presence import Presence, Program
from tests.contract.rigs import (
    AGAIN,
    HANDLER,
    TERMS,
    MemoryRig,
    RedisRig,
    at,
    claim,
    due,
    message,
    part_of,
    replay,
    settle,
)


def here(presence: Presence) -> tuple[list[str], list[str], dict[str, str]]:
    """What a presence says, without the times."""
    live, gone = ([program.name for program in programs] for programs in (presence.workers, presence.gone))
    return live, gone, dict(presence.descriptions)


class TwoStores(RuleBasedStateMachine):
    """Whatever workers do, in whatever order: both stores give the same answers."""

    url: str
    fused = False
    deliveries = Bundle("deliveries")

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryRig()
        self.redis = RedisRig(self.url, f"m{uuid4().hex[:8]}", fused=self.fused)
        self.letters: list[tuple[str, str]] = []
        self.scheduled: list[str] = []
        self.programs: list[str] = []
        #: How many messages have left with a commit.
        self.left = 0
        self.count = 0

    def teardown(self) -> None:
        self.redis.close()

    def both(self, call: Callable[[Store], Any]) -> Any:
        ours, theirs = call(self.memory.store), call(self.redis.store)
        if isinstance(ours, CommitResult):
            # Beside the broker what leaves is in the queues already.
            assert theirs.outcome == ours.outcome
            assert theirs.unsent == ({} if self.fused else ours.unsent)
        elif isinstance(ours, ClaimResult):
            assert ours.busy_seconds == pytest.approx(theirs.busy_seconds, abs=4)
            ours_told = ours.verdict, ours.deliveries, ours.parts, ours.note
            assert ours_told == (theirs.verdict, theirs.deliveries, theirs.parts, theirs.note)
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
        key = self.fresh("s")
        settlement = Settlement(done=done, scheduled=[at(key, delay)], unscheduled=["deadline:join:1"] if done else [])
        if self.both(lambda store: store.commit(worker, settlement)).outcome is Outcome.OK:
            self.scheduled.append(key)

    @rule(worker=deliveries, done=st.booleans(), count=st.sampled_from([1, 2]), sends=st.booleans())
    def commit_with_what_leaves(self, worker, done, count, sends):
        """The worker sends it, or dies before it has; then whoever asks next finds it in the outbox."""
        leaving = {key: message(key) for key in (self.fresh("event:") for _ in range(count))}
        if self.both(lambda store: store.commit(worker, Settlement(done=done, sent=leaving))).outcome is not Outcome.OK:
            return
        self.left += count
        self.scheduled += leaving
        if sends:
            self.both(lambda store: store.sent(HANDLER, list(leaving)))
        elif self.fused:
            # There is no outbox that the memory could be compared with.
            self.memory.store.sent(HANDLER, list(leaving))

    @rule(seconds=st.sampled_from([None, 15, 105]), instead_of=st.sampled_from([ANY, None]))
    def pause(self, seconds, instead_of):
        def pause(store: Store) -> tuple[bool, bool]:
            done = store.pause(Pause(HANDLER), seconds, instead_of=instead_of)
            return done.is_done, done.before is None

        self.both(pause)

    @rule()
    def resume(self):
        self.both(lambda store: store.resume(HANDLER) is None)

    @rule(delay=st.sampled_from([0, 15]))
    def announce_later(self, delay):
        key = self.fresh("s")
        self.both(lambda store: store.schedule(HANDLER, at(key, delay)))
        self.scheduled.append(key)

    @rule(data=st.data())
    def call_off(self, data):
        if self.scheduled:
            key = data.draw(st.sampled_from(self.scheduled))
            self.both(lambda store: store.unschedule(HANDLER, key))

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
                lambda store: replay(
                    store, HANDLER, letter, unit, parts if "join" in unit else {}, at(f"replay:{letter}")
                )
            )

    @rule(node=st.sampled_from("xy"), digest=st.sampled_from("ab"), ttl=st.sampled_from([0, 15, 65]))
    def report(self, node, digest, ttl):
        # So that two programs are never seen last at the same time.
        self.wait(10)
        program = Program(self.fresh("p"), node, pool="solo", digest=digest, since=float(self.count))
        self.programs.append(program.name)
        self.both(lambda store: store.report("driver", program, f"<{digest}>", ttl))
        self.both(lambda store: here(store.presence("driver")))

    @rule(data=st.data())
    def leave(self, data):
        if self.programs:
            self.wait(10)
            name = data.draw(st.sampled_from(self.programs))
            self.both(lambda store: store.leave("driver", name))
            self.both(lambda store: here(store.presence("driver")))

    @rule(seconds=st.sampled_from([10, 20, 50]))
    def wait(self, seconds):
        self.memory.pass_time(seconds)
        self.redis.pass_time(seconds)

    @rule(worker=deliveries)
    def wait_past_the_retention(self, worker):
        """Whatever is settled is forgotten by then. What is not, is settled first: it could not run for so long."""
        for unit in ("e-1", "join:1"):
            token = self.token_of(unit)
            self.both(lambda store, unit=unit, token=token: settle(store, claim(token, unit, 0), AGAIN))
        self.wait(2 * TERMS.retention.total_seconds())
        self.both(lambda store: store.begin(worker))

    def token_of(self, unit: str) -> str:
        return self.memory.store._unit(claim(unit=unit)).token or "nobody"

    @rule(send=st.booleans())
    def hand_out(self, send):
        keys = self.both(lambda store: sorted(due(store)))
        if send:
            self.both(lambda store: store.sent(HANDLER, keys))

    @invariant()
    def the_same_is_kept(self):
        self.both(lambda store: store.backlog(HANDLER).total)
        self.both(lambda store: sorted(store.letters(HANDLER)))

    @invariant()
    def what_left_is_in_its_queue(self):
        if self.fused:
            assert self.redis.client.llen(f"{self.redis.prefix}:broker:{HANDLER}") == self.left


@pytest.mark.parametrize("where", ["elsewhere", "fused with the broker"])
def test_both_stores_give_the_same_answers_whatever_the_workers_do(redis_url, where):
    class Machine(TwoStores):
        __module__ = "of no file"  # as in test_store_joins.py
        url = redis_url
        fused = where == "fused with the broker"

    run_state_machine_as_test(
        Machine,
        settings=settings(
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
