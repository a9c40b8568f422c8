"""A service with Sentry, whose transport writes each event into a file instead of sending it."""

import json
import os
import time
from pathlib import Path
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

from choreo import PermanentFailure, Retry, Service
from tests.integration.orders import OrderPlaced

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
COLLECTED = Path(SETTINGS.pop("collected"))
#: Seconds after which the process of `ship` is ended; None: there is no such handler.
LIMIT = SETTINGS.pop("limit", None)


class Collector(Transport):
    """Appends each event to a file."""

    def capture_envelope(self, envelope: Any) -> None:
        with COLLECTED.open("a") as file:
            for item in envelope.items:
                if item.type == "event":
                    file.write(json.dumps(item.payload.json) + "\n")


sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=Collector, integrations=[CeleryIntegration()])
app = Service("payment", broker=os.environ["CHOREO_TEST_BROKER"], config=SETTINGS, retry=Retry(times=1, first=0.01))


def fail(order: OrderPlaced) -> None:
    """Fail in one of three ways: with a plain error, a refusal, or a return value that is no event."""
    if order.number == 1:
        raise ValueError("no such account")
    if order.number == 2:
        raise PermanentFailure("the account is frozen")


@app.on(OrderPlaced)
def charge_customer(order: OrderPlaced) -> None:
    fail(order)


@app.on(OrderPlaced)
def send_receipt(order: OrderPlaced) -> None:
    fail(order)


@app.on(OrderPlaced)
def book_revenue(order: OrderPlaced):  # type: ignore[no-untyped-def]
    return {"number": order.number} if order.number == 3 else None


if LIMIT is not None:

    @app.on(OrderPlaced, time_limit=LIMIT)
    def ship(order: OrderPlaced) -> None:
        if order.number == 13:
            os._exit(1)
        time.sleep(order.seconds)
