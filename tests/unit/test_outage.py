"""A delivery is held while the store is away, and no longer than that helps."""

import pytest
from celery.worker import state

from choreo.errors import StoreError
from choreo.worker import outage
from choreo.worker.outage import outlast


class Store:
    """Takes nothing the first few times."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.asked = refusals, 0

    def tend(self, *_: object) -> None:
        self.asked += 1
        if self.asked <= self.refusals:
            raise StoreError("it is away")


@pytest.mark.parametrize(("refusals", "seconds"), [(0, 1), (1, 3), (2, 7), (6, 91), (7, 121)])
def test_a_delivery_is_held_in_growing_pauses_until_the_store_takes_something(refusals: int, seconds: float):
    naps: list[float] = []
    store = Store(refusals)

    outlast(store, naps.append)

    assert store.asked == refusals + 1
    assert sum(naps) == seconds


def test_a_delivery_is_not_held_for_ever():
    naps: list[float] = []

    outlast(Store(10**9), naps.append)

    assert sum(naps) == outage.MOST_SECONDS


def test_a_stopping_worker_holds_nothing(monkeypatch: pytest.MonkeyPatch):
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        monkeypatch.setattr(state, "should_stop", 0)

    outlast(Store(10**9), nap)

    assert sum(naps) < 1
