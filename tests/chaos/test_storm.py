"""Everything at once: orders are placed while whatever can go wrong goes wrong."""

import pytest

from choreo.local import EmbeddedServer
from tests.chaos import crashes, scenarios
from tests.chaos.conftest import LANE_OFF, LONG, MakeFleet

#: Clients wait for some seconds before they give up on lost answers: not in the short form.
SLOW_FAULTS = ("swallow answers", "swallow commands")


@pytest.mark.timeout(3600 if LONG else 600)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq", *([LANE_OFF, "redis apart"] if LONG else [])])
def test_no_event_is_lost_in_a_storm(
    broker: str, make_fleet: MakeFleet, server: EmbeddedServer, orders: int, seed: int
) -> None:
    # Besides what the storm does, the processes that handle the first orders die at each named point.
    fleet = make_fleet(broker, crashes.success("payment.charge_customer"))

    report = scenarios.everything(
        fleet,
        seed=seed,
        orders=orders,
        store_url=server.url,
        rounds=max(1, orders // 300),
        without=() if LONG else SLOW_FAULTS,
    )

    # What users run is what is tried: see `services/book.py`.
    assert bool(report.ledger.shortcuts) is (broker != LANE_OFF)
