"""The service that the tests of claims run: its handler notes what it does, sleeps, or kills its process."""

import json
import logging
import os
import time
from datetime import timedelta

import redis

from choreo import Event, Service, Terms

# They are tried as they run without a log of each run, which is a shorter way with the pools solo and threads.
for log in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(log).setLevel(logging.WARNING)

SETTINGS = json.loads(os.environ.get("CHOREO_TEST_SETTINGS", "{}"))
BROKER = os.environ.get("CHOREO_TEST_BROKER", "")
#: Where the handler takes its notes, whatever becomes of the broker's connections.
NOTES = os.environ.get("CHOREO_TEST_NOTES", BROKER)
LEASE = float(os.environ.get("CHOREO_TEST_LEASE", "3"))

app = Service(
    "payment",
    broker=BROKER or None,
    config=SETTINGS,
    terms=Terms(lease=timedelta(seconds=LEASE), max_deliveries=3),
)


class OrderPlaced(Event):
    number: int = 0
    #: How long its handler takes.
    seconds: float = 0
    #: Whether its handler waits until the test lets it go on.
    waits: bool = False
    #: Whether its handler kills the process that runs it.
    kills: bool = False
    #: Whether its handler notes whether its commit can be sent ahead.
    tells: bool = False


class OrderPacked(Event):
    number: int = 0


class LabelPrinted(Event):
    number: int = 0


class OrderCancelled(Event):
    number: int = 0


def note(what: str, number: int) -> None:
    client = redis.Redis.from_url(NOTES, decode_responses=True)
    client.rpush(f"{app.runtime.topology.namespace}:notes", json.dumps([what, number]))
    client.close()


def wait_until_open() -> None:
    with redis.Redis.from_url(NOTES) as client:
        while not client.exists(f"{app.runtime.topology.namespace}:open"):
            time.sleep(0.02)


@app.on(OrderPlaced)
def charge(order: OrderPlaced) -> None:
    note("begun", order.number)
    if order.tells:
        note("ahead", int(getattr(app.current_task.request, "choreo_commits", None) is not None))
    if order.kills:
        os.kill(os.getpid(), 9)
    if order.waits:
        wait_until_open()
    time.sleep(order.seconds)
    note("done", order.number)


@app.join(OrderPacked, LabelPrinted, unless=OrderCancelled)
def ship(packed: OrderPacked, printed: LabelPrinted) -> None:
    assert packed.number == printed.number
    note("shipped", packed.number)
