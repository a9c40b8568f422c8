"""A service whose handlers do not end by themselves, and whose dead-letter handler ends its process."""

import json
import os
import time
from datetime import timedelta

import redis

from choreo import DeadLetter, PermanentFailure, Retry, Service, Terms
from tests.integration.orders import OrderPlaced

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
NOTEBOOK = redis.Redis.from_url(SETTINGS["choreo_store_url"], decode_responses=True)
#: The seconds of an order whose handler waits until the test lets it go on.
WAITS = 1000.0
TERMS = Terms(lease=timedelta(seconds=1), max_deliveries=2)

app = Service(
    "payment",
    broker=os.environ["CHOREO_TEST_BROKER"],
    config=SETTINGS,
    terms=TERMS,
    retry=Retry(times=1, first=0.1, cap=0.1),
)


def note(what: str, number: int) -> None:
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:{what}", number)


@app.on(OrderPlaced)
def charge_customer(order: OrderPlaced) -> None:
    """Computes for ever in one go (below 0 seconds), refuses (0), waits for the test (`WAITS`), or sleeps."""
    note("begun", order.number)
    NOTEBOOK.set(f"{app.runtime.topology.namespace}:pid:{order.number}", os.getpid())
    if order.seconds < 0:
        sum(range(10**12))
    while order.seconds == WAITS and not NOTEBOOK.exists(f"{app.runtime.topology.namespace}:open"):
        time.sleep(0.02)
    if order.seconds == WAITS:
        note("done", order.number)
        return
    if order.seconds == 0:
        raise PermanentFailure("no such account")
    time.sleep(order.seconds)
    note("done", order.number)


@app.dead_letter
def tell(letter: DeadLetter) -> None:
    number = letter.envelopes[0].data["number"]
    note("told", number)
    if number == 13:
        os._exit(1)
