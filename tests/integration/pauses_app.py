"""The service that the tests of pauses run: its handlers note what they do, and one waits until it may go on."""

import json
import logging
import os
import time
from datetime import timedelta

import redis

from choreo import Retry, RetryLater, Service
from tests.integration.orders import OrderCancelled, OrderPlaced

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
NOTEBOOK = redis.Redis.from_url(SETTINGS["choreo_store_url"], decode_responses=True)

# Without a log of each run the pools solo and threads take a shorter way.
if SETTINGS.pop("quiet", False):
    for log in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(log).setLevel(logging.WARNING)

app = Service("payment", broker=os.environ["CHOREO_TEST_BROKER"], config=SETTINGS, retry=Retry(times=3))


def note(what: str, number: int) -> None:
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:{what}", number)


@app.on(OrderPlaced)
def charge_customer(order: OrderPlaced) -> None:
    note("begun", order.number)
    seconds, microseconds = NOTEBOOK.time()
    note("at", int(seconds) * 1000 + int(microseconds) // 1000)
    # Orders from 1000 fail once.
    if order.number >= 1000 and app.current_task.request.retries == 0:
        raise RetryLater(1.0)
    while order.seconds and not NOTEBOOK.exists(f"{app.runtime.topology.namespace}:open"):
        time.sleep(0.02)
    note("done", order.number)


@app.on(OrderPlaced)
def watch_order(order: OrderPlaced) -> None:
    note("watched", order.number)


def give_up(order: OrderPlaced | None, cancelled: OrderCancelled | None) -> None:
    note("timed out", 0)


@app.join(OrderPlaced, OrderCancelled, within=timedelta(seconds=12), on_timeout=give_up)
def refund(order: OrderPlaced, cancelled: OrderCancelled) -> None:
    note("refunded", order.number)
