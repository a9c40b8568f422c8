"""The service that the tests of workers run; what it is, the environment says."""

import json
import os
import time

import redis

from choreo import Envelope, Service
from tests.integration.orders import OrderPlaced

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
NOTEBOOK = redis.Redis.from_url(SETTINGS["choreo_store_url"], decode_responses=True)

app = Service("payment", broker=os.environ["CHOREO_TEST_BROKER"], config=SETTINGS)


def note(what: str, number: int) -> None:
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:{what}", number)


@app.on(OrderPlaced)
def charge_customer(order: OrderPlaced) -> None:
    note("begun", order.number)
    time.sleep(order.seconds)
    note("done", order.number)


for pattern in filter(None, os.environ.get("CHOREO_TEST_PATTERNS", "").split(",")):

    @app.on(*pattern.split("+"), name=f"watch_{pattern.partition('.')[0]}")
    def watch(event: Envelope) -> None:
        note("watched", 0)


@app.task(name="payment.note_number")
def note_number(number: int) -> None:
    note("task", number)
