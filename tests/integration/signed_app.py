"""The service that the tests of signatures run: it retries, joins and undoes, and notes what it does."""

import json
import os
from datetime import timedelta

import redis

from choreo import Context, Retry, RetryLater, Service
from tests.integration.orders import OrderCancelled, OrderCharged, OrderPacked, OrderPlaced

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
NOTEBOOK = redis.Redis.from_url(SETTINGS["choreo_store_url"], decode_responses=True)

app = Service("payment", broker=os.environ["CHOREO_TEST_BROKER"], config=SETTINGS, retry=Retry(times=3))


def note(what: str, number: int) -> None:
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:{what}", number)


@app.on(OrderPlaced)
def charge_customer(order: OrderPlaced, context: Context) -> OrderCharged:
    if context.attempt == 1:
        raise RetryLater(0.1)
    note("charged", order.number)
    return OrderCharged(number=order.number)


@app.join(OrderPacked, OrderCharged, within=timedelta(hours=1))
def ship(packed: OrderPacked, charged: OrderCharged) -> None:
    note("shipped", charged.number)


@app.on(OrderCancelled, undoes=charge_customer)
def refund(charged: OrderCharged) -> None:
    note("refunded", charged.number)
