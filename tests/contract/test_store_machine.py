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

from choreo.local.server import EmbeddedServer
from choreo.store import Begun, Committed, Outcome, Settlement, Store
from tests.contract.rigs import (
    HANDLER,
    MemoryRig,
    RedisRig,
    at,
    claim,
    due,
    part_of,
    settle,
)


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
