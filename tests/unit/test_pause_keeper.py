"""The pause keeper: what a worker follows."""

import logging
import time
from dataclasses import replace

import pytest

from choreo.errors import StoreError
from choreo.store.memory import MemoryStore
from choreo.store.pauses import Pause
from choreo.store.presence import Program
from choreo.worker.pauses import STOPPED, PauseKeeper
from tests.waiting import eventually

CHARGE, REFUND = "payment.charge", "payment.refund"


class Store(MemoryStore):
    """A store that can be away, and whose time a test moves."""

    is_away = False
    seconds = 1000.0

    def __init__(self) -> None:
        super().__init__(clock=lambda: self.seconds)

    def pauses(self, handlers=None):
        if self.is_away:
            raise StoreError("it is away")
        return super().pauses(handlers)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def keeper(store: Store) -> PauseKeeper:
    follows: list[object] = []
    keeper = PauseKeeper(store, ["payment", CHARGE, REFUND], lambda name: f"q.{name}", "me", lambda: follows.append(1))
    keeper.follows = follows
    return keeper


def look(keeper: PauseKeeper) -> None:
    keeper._turn()


def worker(name: str, *queues: str) -> Program:
    return Program(name, name, pool="solo", queues=queues, digest="d")


def test_a_pause_and_its_end_are_followed_once(store, keeper):
    store.pause(Pause(CHARGE, id="p"))
    look(keeper)
    look(keeper)

    assert keeper.shares == {CHARGE: STOPPED}
    assert len(keeper.follows) == 1

    store.resume(CHARGE)
    look(keeper)
    assert keeper.shares == {}
    assert len(keeper.follows) == 2


def test_a_pause_ends_by_the_stores_clock(store, keeper):
    store.pause(Pause(CHARGE), 30.0)
    look(keeper)
    store.seconds += 31
    look(keeper)

    assert keeper.shares == {}


def test_a_rate_is_divided_among_the_workers_that_consume_the_queue(store, keeper):
    store.pause(Pause(CHARGE, rate=6.0))
    look(keeper)
    assert keeper.shares == {CHARGE: 6.0}

    for one in (worker("me", f"q.{CHARGE}"), worker("b", f"q.{CHARGE}"), worker("c", f"q.{CHARGE}"), worker("d")):
        store.report("payment", one, "declared", 60.0)
    look(keeper)
    assert keeper.shares == {CHARGE: 2.0}

    store.leave("payment", "b")
    look(keeper)
    assert keeper.shares == {CHARGE: 3.0}


def test_while_the_store_is_away_the_last_pauses_hold_and_that_is_logged_once(store, keeper, caplog):
    store.pause(Pause(CHARGE))
    look(keeper)
    store.is_away = True
    look(keeper)
    look(keeper)

    assert keeper.shares == {CHARGE: STOPPED}
    assert len([record for record in caplog.records if "the pauses of the last look hold" in record.message]) == 1


def test_a_worker_does_not_begin_before_its_first_look(store, keeper):
    store.is_away = True

    with pytest.raises(StoreError):
        keeper.start()


def test_each_change_is_one_line_in_the_log(store, keeper, caplog):
    caplog.set_level(logging.WARNING)
    known = store.pause(Pause(CHARGE, id="p", reason="gateway down", by="alice@a")).pause
    look(keeper)
    store.pause(replace(known, probes=1), instead_of=known)
    look(keeper)
    store.resume(CHARGE)
    look(keeper)

    assert [record.message for record in caplog.records] == [
        f"{CHARGE} is paused since 1970-01-01 00:16:40 UTC by alice@a: gateway down",
        f"{CHARGE} is resumed",
    ]


def test_a_wake_up_makes_it_look_at_once_and_others_hear_of_each_look(store, keeper, monkeypatch):
    monkeypatch.setattr(keeper._daemon, "_interval", 3600.0)
    heard: list[list[str]] = []
    keeper.on_look.append(lambda pauses: heard.append(list(pauses)))
    keeper.start()
    try:
        store.pause(Pause(REFUND))
        keeper.wake()
        eventually(lambda: heard[-1:] == [[REFUND]])
    finally:
        keeper.stop()
    assert keeper.shares == {REFUND: STOPPED}


def test_whoever_paused_the_handler_goes_on_once_this_worker_has_learnt_of_it(store, monkeypatch):
    monkeypatch.setattr("choreo.worker.pauses.INTERVAL", 20.0)  # only the wake-up makes it look
    keeper = PauseKeeper(store, [CHARGE], lambda name: f"q.{name}", "me", lambda: None)
    keeper.start()
    try:
        store.pause(Pause(CHARGE, id="p"))
        began = time.monotonic()
        keeper.stand_by(CHARGE)
        assert keeper.shares == {CHARGE: STOPPED}
        assert time.monotonic() - began < 15
    finally:
        keeper.stop()


@pytest.mark.parametrize("is_child", [False, True])
def test_nobody_waits_longer_than_for_the_next_look(store, keeper, monkeypatch, is_child):
    monkeypatch.setattr("choreo.worker.pauses.INTERVAL", 0.2)
    if is_child:  # its parent is another process
        monkeypatch.setattr("choreo.worker.pauses.os.getpid", lambda: -1)
    began = time.monotonic()

    keeper.stand_by(CHARGE)

    assert 0.2 <= time.monotonic() - began < 5
