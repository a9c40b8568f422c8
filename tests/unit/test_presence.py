"""The presence keeper of a worker, without a worker."""

from types import SimpleNamespace
from typing import Any

import pytest

from choreo.declare.description import ServiceDescription
from choreo.errors import StoreError
from choreo.store.memory import MemoryStore
from choreo.store.presence import Program
from choreo.worker.presence import PresenceKeeper


class Store(MemoryStore):
    """A store that can be away. ``calls`` are the names of what it was asked."""

    is_away = False

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def report(self, *about: Any, **more: Any) -> None:
        self.calls.append("report")
        if self.is_away:
            raise StoreError("away")
        super().report(*about, **more)

    def leave(self, *about: Any) -> None:
        self.calls.append("leave")
        super().leave(*about)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def keeper(store: Store) -> PresenceKeeper:
    queues = SimpleNamespace(consume_from={"payment.charge": None})
    worker = SimpleNamespace(app=SimpleNamespace(amqp=SimpleNamespace(queues=queues)), concurrency=1)
    return PresenceKeeper(worker, store, Program("payment@a/1", "payment@a"), ServiceDescription("payment"))


def test_a_worker_that_ends_says_so(store: Store, keeper: PresenceKeeper) -> None:
    keeper.report()
    keeper.stop()

    assert store.calls == ["report", "leave"]
    assert [program.is_alive for program in store.presence("payment").gone] == [False]


def test_the_end_of_a_worker_does_not_wait_for_a_store_that_did_not_answer(
    store: Store, keeper: PresenceKeeper
) -> None:
    keeper.report()
    store.is_away = True
    keeper.report()
    keeper.stop()

    assert store.calls == ["report", "report"]
