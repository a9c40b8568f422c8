"""The service that the tests of breakers run: its gateway is away while a flag is set in the notebook."""

import json
import logging
import os
import time

import redis

from choreo import Breaker, Context, Retry, Service
from tests.integration.orders import OrderPlaced

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
NOTEBOOK = redis.Redis.from_url(SETTINGS["choreo_store_url"], decode_responses=True)
RETRY = Retry(times=2, first=0.5, cap=2.0, breaker=Breaker(failures=3, first=0.5, cap=2.0))

# Without a log of each run the pools solo and threads take a shorter way.
if SETTINGS.pop("quiet", False):
    for log in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(log).setLevel(logging.WARNING)

app = Service("payment", broker=os.environ["CHOREO_TEST_BROKER"], config=SETTINGS)


def note(what: str, text: object) -> None:
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:{what}", str(text))


@app.on(OrderPlaced, retry=RETRY, time_limit=SETTINGS.pop("limit", None))
def charge_customer(order: OrderPlaced, context: Context) -> None:
    space = app.runtime.topology.namespace
    NOTEBOOK.set(f"{space}:pid:{order.number}", os.getpid())
    note("begun", order.number)
    if NOTEBOOK.exists(f"{space}:hangs"):
        note("hanging", order.number)
        while NOTEBOOK.exists(f"{space}:hangs"):
            time.sleep(0.05)
    if NOTEBOOK.exists(f"{space}:away"):
        raise ConnectionError("the gateway is away")
    time.sleep(order.seconds)
    note("done", order.number)


@app.on(OrderPlaced)
def watch_order(order: OrderPlaced) -> None:
    note("watched", order.number)
