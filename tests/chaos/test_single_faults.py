"""One kind of fault at a time, many times in a row: what a storm hides, these show."""

import pytest

from choreo.local import EmbeddedServer
from tests.chaos import scenarios
from tests.chaos.conftest import MakeFleet
from tests.chaos.faults import FAULTS

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
@pytest.mark.parametrize("store", ["beside", "apart"])
def test_a_broker_that_is_killed_and_keeps_its_data_loses_nothing(
    store: str, make_fleet: MakeFleet, server: EmbeddedServer, orders: int, seed: int
) -> None:
    fleet = make_fleet("redis" if store == "beside" else "redis apart")

    scenarios.restarts(fleet, server, seed=seed, orders=orders // 4, store_url=server.url)
