"""The service that the tests of order and concurrency run: its handlers note when they begin and end."""

import json
import os
import time
from datetime import timedelta

import redis

from choreo import Context, Retry, RetryLater, Series, Service
from choreo.store import Terms
from tests.integration.orders import OrderCharged, OrderPacked, OrderPlaced, StockMoved

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
LEASE = timedelta(seconds=SETTINGS.pop("lease", 15))
LIMIT = SETTINGS.pop("limit", 1)
PASSES = SETTINGS.pop("passes", False)
NOTEBOOK = redis.Redis.from_url(SETTINGS["choreo_store_url"], decode_responses=True)

app = Service(
    "payment",
    broker=os.environ["CHOREO_TEST_BROKER"],
    config=SETTINGS,
    terms=Terms(lease=LEASE),
    retry=Retry(times=3, first=0.3),
)


def note(what: str, number: int) -> None:
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:{what}", number)


def is_open() -> bool:
    return bool(NOTEBOOK.exists(f"{app.runtime.topology.namespace}:open"))


@app.on(OrderPlaced, concurrency=LIMIT)
def charge_customer(order: OrderPlaced) -> None:
    """Negative seconds: until the tests open."""
    note("steps", order.number + 1)
    NOTEBOOK.set(f"{app.runtime.topology.namespace}:pid:{order.number}", os.getpid())
    while order.seconds < 0 and not is_open():
        time.sleep(0.02)
    time.sleep(max(order.seconds, 0))
    note("steps", -order.number - 1)
    note("done", order.number)


@app.on(OrderPlaced)
def watch_order(order: OrderPlaced) -> None:
    note("watched", order.number)


@app.on(StockMoved, sequential_by=Series("subject", retries_pass=PASSES))
def book(moved: StockMoved, context: Context) -> None:
    subject = context.subject
    note(f"steps:{subject}", moved.number + 1)
    note("booking", 1)
    NOTEBOOK.set(f"{app.runtime.topology.namespace}:pid:{moved.number}", os.getpid())
    while moved.seconds < 0 and not is_open():
        time.sleep(0.02)
    time.sleep(max(moved.seconds, 0))
    note("booking", -1)
    if context.attempt <= moved.fails:
        note(f"steps:{subject}", -1000)
        raise RetryLater(0.3)
    note(f"steps:{subject}", -moved.number - 1)
    note("booked", moved.number)


@app.on(OrderCharged)
def inspect(order: OrderCharged) -> None:
    """Goes on when it is let: one run for each permit."""
    note("slow", order.number)
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:begins", "inspected")
    while not is_open() and NOTEBOOK.lpop(f"{app.runtime.topology.namespace}:permits") is None:
        time.sleep(0.02)


@app.on(OrderPacked)
def pack(order: OrderPacked) -> None:
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:begins", "packed")
