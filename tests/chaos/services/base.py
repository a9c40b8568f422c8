"""How each service of the suite is made."""

import os
from datetime import timedelta
from typing import Any

from choreo import Retry, Service
from choreo.store import Terms
from tests.chaos.services import crash, sabotage, settings

#: Seconds without a sign of life after which a worker's claims go to somebody else.
LEASE_SECONDS = float(os.environ.get("CHAOS_LEASE", "3"))
#: How often an event may be begun before it counts as poison. It is we who kill here, so that it is many by default.
MAX_DELIVERIES = int(os.environ.get("CHAOS_MAX_DELIVERIES", "100"))


def service(name: str, **options: Any) -> Service:
    """A service with short leases."""
    app = Service(
        name,
        config=settings,
        retry=Retry(times=50, first=0.1, cap=1.0),
        terms=Terms(lease=timedelta(seconds=LEASE_SECONDS), max_deliveries=MAX_DELIVERIES),
        **options,
    )
    # In this order: what a sabotage puts in place of a step may die in the middle of it.
    crash.arm(app)
    sabotage.apply(app)
    return app
