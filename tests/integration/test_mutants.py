"""Mutants of good messages, for real workers: none ends a worker, none is lost, none comes back for ever."""

import random

import pytest

from tests.integration.conftest import MakeWorld
from tests.integration.hostility import SERVICES, storm


@pytest.mark.parametrize(("broker", "pool"), [("redis", "prefork"), ("rabbitmq", "solo")])
def test_no_mutant_is_lost_or_stops_a_worker(broker: str, pool: str, make_world: MakeWorld) -> None:
    world = make_world(broker, *SERVICES, options=("--pool", pool, "--concurrency", "2"))
    seed = random.randrange(2**32)
    print(f"seed {seed}")

    storm(world, 500, random.Random(seed))
