"""A worker dies while something else happens than a success; see `services/crash.py` for the points."""

import pytest

from choreo.local import EmbeddedServer
from tests.chaos import crashes, scenarios
from tests.chaos.conftest import LANE_OFF, LONG, MakeFleet

BROKERS = ("redis", "rabbitmq", "redis apart", LANE_OFF)
HANDLERS = ("payment.charge_customer", "driver.assign_driver", "loyalty.thank_customer")
#: What `make test` has time for: each handler once, with store and broker in one, apart, and without the fast lane.
SHORT = [
    ("redis", "loyalty.thank_customer"),
    ("redis apart", "payment.charge_customer"),
    (LANE_OFF, "driver.assign_driver"),
]
EVERY = [(broker, handler, "prefork") for broker in BROKERS for handler in HANDLERS]
# Here the whole worker dies, and whoever comes next finds no busy unit: its lease has run out.
EVERY += [("redis", handler, pool) for handler in HANDLERS for pool in ("threads", "solo")]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("broker", "handler", "pool"), EVERY if LONG else [(*chosen, "prefork") for chosen in SHORT])
def test_a_crash_while_something_else_happens_than_a_success_loses_nothing_and_doubles_nothing(
    broker: str, handler: str, pool: str, make_fleet: MakeFleet, server: EmbeddedServer, seed: int
) -> None:
    busy = pool == "prefork" and is_busy_after_a_crash(broker, handler)
    fleet = make_fleet(broker, crashes.mishaps(handler, busy=busy))

    scenarios.mishaps(fleet, handler=handler, pool=pool, seed=seed, store_url=server.url)


def is_busy_after_a_crash(broker: str, handler: str) -> bool:
    """Where taking is beginning, a claim ends with the delivery that died; a join's parts have a lease all the same."""
    return broker != "redis" or handler == "driver.assign_driver"
