"""A hundred thousand mutants of good messages, for each broker, pool and lane: see `tests/mutants.py`."""

import os
import random

import pytest

from tests.integration.conftest import MakeWorld, make_world
from tests.integration.hostility import SERVICES, storm

__all__ = ["make_world"]

#: The mutants of all tests here.
MUTANTS = int(os.environ.get("CHAOS_MUTANTS", "100000"))
#: Broker, pool, and whether the fast lane is on.
WORLDS = [
    *((broker, pool, True) for broker in ("redis", "rabbitmq") for pool in ("prefork", "threads", "solo")),
    *(("redis", "prefork", False), ("rabbitmq", "solo", False)),
]


@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize(("broker", "pool", "lane"), WORLDS)
def test_no_mutant_is_lost_or_stops_a_worker(
    broker: str, pool: str, lane: bool, make_world: MakeWorld, seed: int
) -> None:
    world = make_world(broker, *SERVICES, options=("--pool", pool, "--concurrency", "2"), lane=lane)

    storm(world, MUTANTS // len(WORLDS), random.Random(seed))
