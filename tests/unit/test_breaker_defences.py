"""Each defence of the breaker, and what happens without it: the tests of the breaker can fail."""

import random
from collections.abc import Callable

import pytest

from choreo import Breaker
from choreo.delivery import breaker
from choreo.delivery.breaker import OutageBreaker
from choreo.store.memory import MemoryStore
from tests.unit.test_breaker_stage import RETRY, Platform

Scenario = Callable[[], object]


def outage(count: int = 20) -> Platform:
    platform = Platform(RETRY)
    platform.gateway.error = ConnectionError("the gateway is away")
    platform.place(*range(count))
    platform.stage.advance(minutes=10)
    return platform


def dead_letters_of_an_outage() -> int:
    return len(outage(1).stage.dead_letters)


def calls_in_an_outage() -> int:
    return max(0, len(outage().gateway.calls) - 40)


def left_behind_by_an_outage() -> int:
    platform = outage()
    platform.gateway.error = None
    platform.stage.advance(minutes=1)
    return 20 - len(platform.charged)


def pauses_for_the_poison_of_some() -> int:
    random.seed(20)
    platform, pauses = Platform(RETRY), 0
    platform.gateway.poison = {f"ORD-{number}" for number in range(0, 100, 10)}
    for number in range(100):
        platform.place(number)
        platform.stage.advance(seconds=1)
        pauses += platform.pause is not None
    return pauses


def orders_behind_poison() -> int:
    random.seed(20)
    platform = Platform(RETRY)
    platform.gateway.poison = {f"ORD-{number}" for number in range(10)}
    platform.place(*range(10))
    platform.stage.advance(minutes=20)
    platform.place(99)
    platform.stage.advance(seconds=31)
    return 1 - len(platform.charged)


def _counted(self: OutageBreaker, error: BaseException, attempt: int, probe: str = "") -> None:
    _hold(self, error, attempt, probe)


_hold = OutageBreaker.hold

DEFENCES = [
    ("what fails meanwhile uses up no attempt", dead_letters_of_an_outage, OutageBreaker, "hold", _counted),
    ("the wait for a probe grows", calls_in_an_outage, Breaker, "wait", lambda self, _: self.first),
    ("closing hastens what is held", left_behind_by_an_outage, MemoryStore, "hasten_held", lambda *_: 0),
    ("a success ends the row", pauses_for_the_poison_of_some, OutageBreaker, "_has_succeeded", lambda *_: False),
    ("what failed waits outside of the queue", orders_behind_poison, breaker, "HELD", 0.0),
]


@pytest.mark.parametrize("scenario", {defence[1] for defence in DEFENCES}, ids=lambda scenario: scenario.__name__)
def test_nothing_goes_wrong_with_all_defences(scenario: Scenario) -> None:
    assert scenario() == 0


@pytest.mark.parametrize(
    ("name", "scenario", "owner", "attribute", "instead"), DEFENCES, ids=[one[0] for one in DEFENCES]
)
def test_something_goes_wrong_without(
    name: str, scenario: Scenario, owner: object, attribute: str, instead: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, attribute, instead)

    assert scenario() != 0, f"nothing needs this defence: {name}"
