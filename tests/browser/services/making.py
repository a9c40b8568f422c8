"""How the services of these tests are made, the faults that they can have, and what they write down."""

import os
from pathlib import Path

from choreo import Retry, Service
from handlers.ledger import Ledger, data_directory

NAMESPACE = "CHOREO_TEST_NAMESPACE"


def made(name: str) -> Service:
    """A service on the broker that the environment names. It tries each event once."""
    broker = os.environ.get("CHOREO_BROKER_URL", "memory://")
    service = Service(name, config=None, broker=broker, retry=Retry(times=0), set_as_current=False)
    service.conf.choreo_record_events = True
    service.conf.choreo_store_url = os.environ.get("CHOREO_STORE_URL", "memory:")
    service.conf.choreo_namespace = os.environ.get(NAMESPACE, "")
    return service


def ledger(name: str) -> Ledger:
    """The database of a service. It has a row for each effect, also for one that happened twice."""
    return Ledger(name, "CREATE TABLE IF NOT EXISTS effects (key TEXT, order_id TEXT);")


def fault(name: str) -> Path:
    """The path of a file. While it exists, the services have this fault."""
    return data_directory() / f"fault-{name}"


def has(name: str) -> bool:
    """True while the services have this fault."""
    return fault(name).exists()
