"""Fixtures of the chaos suite. CHAOS_ORDERS sets its size and CHAOS_SEED repeats a run; without them it is short."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from choreo.local import EmbeddedServer
from tests.chaos.fleet import Fleet, fleet
from tests.chaos.scenarios import always_write
from tests.chaos.storm import repeat_command

#: Whether everything is run, with many orders, or what fits into `make test`.
LONG = "CHAOS_ORDERS" in os.environ

#: What takes minutes is not even collected in the short form.
collect_ignore = [] if LONG else ["test_crash_points.py", "test_mutants.py", "test_single_faults.py"]

#: A broker of `make_fleet`.
LANE_OFF = "redis, lane off"

MakeFleet = Callable[..., Fleet]


@pytest.fixture
def orders() -> int:
    """How many orders a test places."""
    return int(os.environ.get("CHAOS_ORDERS", "150"))


@pytest.fixture
def seed(orders: int) -> int:
    """Decides which faults happen, to whom and when. How the machine's scheduler answers is not ours to decide."""
    chosen = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"\nrepeat with: {repeat_command(chosen, orders)}")
    return chosen


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A Redis of this test's own: it is killed and searched."""
    with EmbeddedServer(persistent=True) as own:
        always_write(own)
        yield own


@pytest.fixture
def make_fleet(
    server: EmbeddedServer, namespace: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[MakeFleet]:
    """
    Make a fleet on a broker, with further environment for its processes.

    The broker is "redis" with the store in the same, "redis apart", "rabbitmq", or the URL of another RabbitMQ.
    "redis, lane off" is "redis" without the fast lane.
    """
    with ExitStack() as stack:

        def make(broker: str, environment: dict[str, str] | None = None, **options: Any) -> Fleet:
            environment = environment or {}
            if broker == LANE_OFF:
                broker, environment = "redis", environment | {"CHAOS_FAST_LANE": "off"}
            if broker == "redis":
                # One URL for both, as users have it: then broker and store can work hand in hand.
                urls: tuple[str, str | None] = server.url, None
            elif broker == "redis apart":
                urls = server.url, server.url
            elif broker.startswith("amqp"):
                urls = broker, server.url
            else:
                urls = request.getfixturevalue("rabbitmq_url"), server.url
            return stack.enter_context(fleet(*urls, namespace, tmp_path, environment, **options))

        yield make
