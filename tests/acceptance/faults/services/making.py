"""How the services of these tests are made: the environment says where they run, and which version they are."""

import os
from pathlib import Path
from typing import Any

from choreo import Context, Service
from handlers.ledger import Ledger, data_directory

#: Each effect is a row of its own, so that one which happens twice is seen.
TABLE = "CREATE TABLE IF NOT EXISTS effects (what TEXT, subject TEXT);"

NAMESPACE, VERSION = "CHOREO_TEST_NAMESPACE", "CHOREO_TEST_VERSION"


def made(name: str, **options: Any) -> Service:
    """A service on the broker that the environment names."""
    service = Service(name, config=None, broker=os.environ.get("CHOREO_BROKER_URL", "memory://"), **options)
    service.conf.choreo_store_url = os.environ.get("CHOREO_STORE_URL", "memory:")
    service.conf.choreo_namespace = os.environ.get(NAMESPACE, "")
    service.conf.choreo_record_events = True
    service.conf.choreo_version = os.environ.get(VERSION, "1.4.1")
    return service


def did(what: str, context: Context) -> None:
    """Write down, in the database of the service, that this was done for the order."""
    Ledger(context.service, TABLE).write("INSERT INTO effects VALUES (?, ?)", what, context.subject)


def is_mended(context: Context) -> bool:
    """True once the operator has mended what is wrong with this order. See `Shop.mend`."""
    return mark_of(data_directory(), context.subject).exists()


def outage_of(data: Path | None = None) -> Path:
    """The file that says that the payment provider does not answer, while it exists."""
    return (data or data_directory()) / "provider-is-away"


def mark_of(data: Path, subject: str) -> Path:
    """The file that says that what is wrong with an order is mended."""
    return data / f"{subject}.mended"
