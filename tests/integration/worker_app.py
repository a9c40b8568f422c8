"""The service that the tests of workers run; what it is, the environment says."""

import json
import os
import time

import redis
from celery import bootsteps, signals
from celery.app import trace

from choreo import Envelope, Service
from tests.integration.orders import OrderPlaced

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
#: True: the children of the pool cannot read what they are given.
IS_DEAF = SETTINGS.pop("deaf", False)
#: Seconds for which a worker waits between its own start and that of its consumer.
DAWDLES = SETTINGS.pop("dawdles", 0)
NOTEBOOK = redis.Redis.from_url(SETTINGS["choreo_store_url"], decode_responses=True)

app = Service("payment", broker=os.environ["CHOREO_TEST_BROKER"], config=SETTINGS)


def note(what: str, number: int) -> None:
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:{what}", number)


@app.on(OrderPlaced)
def charge_customer(order: OrderPlaced) -> None:
    note("begun", order.number)
    time.sleep(order.seconds)
    note("done", order.number)


@app.task(name="payment.plain")
def plain(number: int) -> int:
    note("plain", number)
    return 1 // number


@signals.worker_process_init.connect(weak=False)
def deafen(**_: object) -> None:
    if IS_DEAF:
        trace._localized[1] = frozenset({"application/x-nothing"})


class Dawdling(bootsteps.StartStopStep):
    requires = ("choreo.worker.steps:ClockStep", "celery.worker.components:Pool")

    def start(self, _: object) -> None:
        time.sleep(DAWDLES)


app.steps["worker"].add(Dawdling)


for pattern in filter(None, os.environ.get("CHOREO_TEST_PATTERNS", "").split(",")):

    @app.on(*pattern.split("+"), name=f"watch_{pattern.partition('.')[0]}")
    def watch(event: Envelope) -> None:
        note("watched", 0)


@app.task(name="payment.note_number")
def note_number(number: int) -> None:
    note("task", number)
