"""A worker dies at each named point of a delivery's life; see `services/crash.py` for the points."""

import pytest

from choreo.local import EmbeddedServer
from tests.chaos import crashes, scenarios
from tests.chaos.conftest import LANE_OFF, MakeFleet
from tests.chaos.faults import pile_up


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
@pytest.mark.parametrize("handler", ["payment.charge_customer", "driver.assign_driver"])
@pytest.mark.parametrize("broker", ["redis", "rabbitmq", "redis apart", LANE_OFF])
def test_a_crash_at_any_point_loses_nothing_and_doubles_nothing(
    broker: str, handler: str, pool: str, make_fleet: MakeFleet, server: EmbeddedServer, seed: int
) -> None:
    fleet = make_fleet(broker, crashes.success(handler))

    scenarios.crash_points(fleet, handler=handler, pool=pool, seed=seed, store_url=server.url)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pool", ["threads", "solo"])
@pytest.mark.parametrize("handler", ["payment.charge_customer", "driver.assign_driver"])
def test_a_crash_among_events_that_are_handled_together_loses_nothing_and_doubles_nothing(
    handler: str, pool: str, make_fleet: MakeFleet, server: EmbeddedServer, seed: int
) -> None:
    fleet = make_fleet("rabbitmq", crashes.together(handler, pool))

    scenarios.crash_points(
        fleet,
        handler=handler,
        pool=pool,
        seed=seed,
        store_url=server.url,
        orders=crashes.TOGETHER,
        title="together",
        faults=[pile_up(handler.partition(".")[0])] * 4,
    )
