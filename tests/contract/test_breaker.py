"""The breaker on every store: it opens once for all workers, one of them probes, and the right to probe is a lease."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from choreo import Breaker, Retry, Service
from choreo.delivery import breaker as module
from choreo.delivery.breaker import OutageBreaker
from choreo.store import Store
from choreo.store.schedule import Scheduled
from tests.contract.rigs import HANDLER, MemoryRig, RedisRig, Rig, due, message
from tests.unit.events import OrderPlaced

DOWN = ConnectionError("away")


@pytest.fixture
def store(rig: Rig) -> Store:
    """The store. The clock of the one in memory goes on by a millisecond at each look, as that of a server does."""
    if isinstance(rig, MemoryRig):
        now = rig.store._clock

        def clock() -> float:
            rig.pass_time(0.001)
            return now()

        rig.store._clock = clock
    return rig.store


def breaker_of(store: Store, node: str = "driver@one", **options: Any) -> OutageBreaker:
    app = Service(HANDLER.partition(".")[0], config=None, set_as_current=False)

    @app.on(
        OrderPlaced, name=HANDLER.partition(".")[2], retry=Retry(breaker=Breaker(failures=3, first=0.001, **options))
    )
    def handler(order: OrderPlaced) -> None: ...

    publisher = SimpleNamespace(message_for=lambda _: message())
    ports: Any = SimpleNamespace(
        store=store, node=node, service_name="driver", publisher=publisher, now=lambda: datetime.now(UTC)
    )
    return OutageBreaker(ports, app.subscriptions[0])


def opened(store: Store) -> OutageBreaker:
    breaker = breaker_of(store)
    assert [breaker.hold(DOWN, 1) for _ in range(3)] == [None, None, module.HELD]
    return breaker


def begun(store: Store, breaker: OutageBreaker) -> str:
    """The token of a probe that has begun."""
    while True:
        pause = store.pause_of(HANDLER)
        assert pause is not None
        if token := breaker.begin_probe(pause):
            return token


def test_it_opens_once_for_all_workers(store):
    ones = [breaker_of(store, f"driver@{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda one: one.hold(DOWN, 1), ones))

    assert held.count(module.HELD) == 6
    pause = store.pause_of(HANDLER)
    assert (pause.by, pause.probes, pause.prober) == ("breaker", 0, "")
    # Its alert is in the schedule, once.
    assert len([key for key in due(store) if key.startswith("event:")]) == 1


def test_one_worker_probes_at_a_time(store):
    breaker = opened(store)
    token = begun(store, breaker)
    pause = store.pause_of(HANDLER)

    assert (pause.prober, pause.probes) == ("driver@one", 1)
    assert breaker_of(store, "driver@two").begin_probe(pause) == ""
    assert breaker.renew(token)


def test_of_several_workers_that_see_the_same_pause_one_probes(store):
    breaker = opened(store)
    pause = store.pause_of(HANDLER)
    while pause.probe_at.timestamp() > store.now():
        pass
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda number: breaker_of(store, f"driver@{number}").begin_probe(pause), range(8)))

    assert sum(map(bool, tokens)) == 1
    assert breaker.begin_probe(pause) == ""


def test_the_right_to_probe_passes_on_if_it_is_not_renewed(store, monkeypatch):
    breaker = opened(store)
    monkeypatch.setattr(module, "LEASE", 0.0)
    first = begun(store, breaker)

    second = begun(store, breaker_of(store, "driver@two"))

    assert first != second
    assert store.pause_of(HANDLER).prober == "driver@two"
    assert not breaker.renew(first)
    breaker.close(first)  # too late: the other one decides
    assert store.pause_of(HANDLER) is not None


def test_a_probe_that_fails_puts_the_next_one_off(store):
    breaker = opened(store)
    token = begun(store, breaker)

    assert breaker.hold(TimeoutError("slow"), 1, token) == module.HELD

    pause = store.pause_of(HANDLER)
    assert (pause.prober, pause.probes, pause.failures) == ("", 1, 4)
    assert pause.error == "TimeoutError: slow"
    assert not breaker.renew(token)


def test_a_probe_that_succeeds_closes_it_and_what_was_held_leaves(store):
    breaker = opened(store)
    store.schedule(HANDLER, Scheduled("held:1", message(), module.HELD))
    breaker.keep("held:1", is_scheduled=True)
    token = begun(store, breaker)

    breaker.close(token)

    assert store.pause_of(HANDLER) is None
    assert "held:1" in due(store)
    assert store.count_failure(HANDLER, "A").total == 1
    breaker.close(token)  # nothing


def test_what_is_held_while_the_breaker_closes_leaves_at_once(store):
    breaker = opened(store)
    breaker.keep("held:1", is_scheduled=False)
    breaker.close(begun(store, breaker))
    store.schedule(HANDLER, Scheduled("held:1", message(), module.HELD))

    breaker.keep("held:1", is_scheduled=True)

    assert "held:1" in due(store)


def test_a_probe_that_shows_nothing_is_followed_by_the_next(store):
    breaker = opened(store)
    breaker.release(begun(store, breaker))

    assert (store.pause_of(HANDLER).prober, store.pause_of(HANDLER).probes) == ("", 0)
    begun(store, breaker)


def test_an_empty_queue_gets_the_event_that_has_waited_longest(store):
    breaker = opened(store)
    for name in ("held:1", "held:2"):
        store.schedule(HANDLER, Scheduled(name, message(), module.HELD))
        breaker.keep(name, is_scheduled=True)

    breaker.found_none(begun(store, breaker))

    assert [key for key in due(store) if key.startswith("held:")] == ["held:1"]


def test_another_pause_in_its_place_is_left_alone(store):
    breaker = opened(store)
    token = begun(store, breaker)
    store.pause(replace(store.pause_of(HANDLER), id="other", by="alice@host", probe_at=None))

    breaker.close(token)
    breaker.release(token)

    assert store.pause_of(HANDLER).by == "alice@host"
    assert breaker.begin_probe(store.pause_of(HANDLER)) == ""


@pytest.mark.parametrize("attempt", [5, 6])
def test_the_last_attempt_of_an_event_is_held_also_if_the_kinds_differ(store, attempt):
    breaker = breaker_of(store)
    assert [breaker.hold(error("x"), 1) for error in (KeyError, OSError)] == [None, None]

    assert breaker.hold(ValueError("x"), attempt) == (module.HELD if attempt == 6 else None)


def test_a_store_with_something_else_in_place_of_the_row_records_failures_as_without_a_breaker(
    redis_rig: RedisRig, caplog: pytest.LogCaptureFixture
) -> None:
    store = redis_rig.store
    redis_rig.client.set(store._key(HANDLER, "failing"), "something else")
    breaker = breaker_of(store)

    assert [breaker.hold(DOWN, 1) for _ in range(5)] == [None] * 5
    assert store.pauses([HANDLER]) == {}
    assert f"the breaker of {HANDLER} does not work" in caplog.text


def test_a_store_with_something_else_in_place_of_what_is_held_keeps_no_failure_from_being_recorded(
    redis_rig: RedisRig, caplog: pytest.LogCaptureFixture
) -> None:
    store = redis_rig.store
    redis_rig.client.set(store._key(HANDLER, "held"), "something else")

    breaker_of(store).keep("held:1", is_scheduled=False)

    assert store.hasten_held(HANDLER) == 0
    assert "an event waits up to 3600 s" in caplog.text
