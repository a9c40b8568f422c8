"""One kind of fault at a time, many times in a row: what a storm hides, these show."""

from functools import partial

import pytest

from choreo.local import EmbeddedServer
from tests.chaos import crashes, scenarios
from tests.chaos.conftest import MakeFleet
from tests.chaos.faults import FAULTS
from tests.integration.rabbitmq_node import RabbitNode

BROKERS = ("redis", "rabbitmq", "redis apart")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("broker", BROKERS)
def test_one_kind_of_fault_loses_nothing(
    broker: str, name: str, make_fleet: MakeFleet, server: EmbeddedServer, orders: int, seed: int
) -> None:
    scenarios.one_kind(make_fleet(broker), name=name, seed=seed, orders=orders // 4, store_url=server.url)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("scenario", [scenarios.neighbours, scenarios.duplicates, scenarios.zombies])
def test_a_scenario_holds(
    scenario: scenarios.Scenario,
    broker: str,
    make_fleet: MakeFleet,
    server: EmbeddedServer,
    orders: int,
    seed: int,
) -> None:
    scenario(make_fleet(broker), seed=seed, orders=min(orders, 300), store_url=server.url)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("broker", BROKERS)
def test_a_lease_lasts_as_long_as_its_handler(
    broker: str, make_fleet: MakeFleet, server: EmbeddedServer, seed: int
) -> None:
    scenarios.long_handlers(make_fleet(broker, scenarios.SHORT_LEASE), seed=seed, store_url=server.url)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("broker", ["redis", "redis apart"])
def test_what_is_due_is_sent_once_however_many_look_into_the_schedule(
    broker: str, make_fleet: MakeFleet, server: EmbeddedServer, orders: int, seed: int
) -> None:
    scenarios.relays(make_fleet(broker), seed=seed, orders=min(orders, 300), store_url=server.url)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("pool", ["prefork", "solo"])
@pytest.mark.parametrize("broker", BROKERS)
def test_what_kills_its_workers_is_parked_and_can_be_replayed(
    broker: str, pool: str, make_fleet: MakeFleet, server: EmbeddedServer, seed: int
) -> None:
    scenarios.poison(make_fleet(broker, crashes.poison()), pool=pool, seed=seed, store_url=server.url)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", ["fused", "apart"])
def test_a_broker_that_is_killed_and_keeps_its_data_loses_nothing(
    store: str, make_fleet: MakeFleet, server: EmbeddedServer, orders: int, seed: int
) -> None:
    fleet = make_fleet("redis" if store == "fused" else "redis apart")

    start = partial(scenarios.restart, server)
    scenarios.restarts(fleet, server.kill, start, seed=seed, orders=orders // 4, store_url=server.url)


@pytest.mark.timeout(900)
def test_a_rabbitmq_that_is_killed_and_started_again_loses_nothing(
    make_fleet: MakeFleet, server: EmbeddedServer, orders: int, seed: int
) -> None:
    # A node of its own: the one that other tests share goes on.
    with RabbitNode() as node:
        fleet = make_fleet(node.url, patience=40)

        scenarios.restarts(fleet, node.kill, node.start, seed=seed, orders=orders // 4, store_url=server.url)
