"""The service that the tests of bundles run: its handler is so quick that a child of the prefork pool gets several."""

import json
import os

import redis

from choreo import Event, Service, Terms
from tests.waiting import eventually

BROKER = os.environ.get("CHOREO_TEST_BROKER", "")

app = Service(
    "payment",
    broker=BROKER or None,
    config=json.loads(os.environ.get("CHOREO_TEST_SETTINGS", "{}")),
    terms=Terms(max_deliveries=3),
)


class OrderPlaced(Event):
    number: int
    #: What the handler does: it is quick, waits until the test lets it go on, kills its process, or fails.
    does: str = ""


class PaymentCharged(Event):
    number: int


_client: list[redis.Redis] = []


def client() -> redis.Redis:
    """One connection per process: a new one for each note would take too long."""
    if not _client:
        _client.append(redis.Redis.from_url(BROKER))
    return _client[0]


def note(what: str, number: int) -> None:
    client().rpush(f"{app.runtime.topology.namespace}:notes", json.dumps([what, number]))


@app.on(OrderPlaced, retry=None)
def charge(order: OrderPlaced) -> PaymentCharged:
    note("begun", order.number)
    match order.does:
        case "kills":
            os.kill(os.getpid(), 9)
        case "waits":
            eventually(lambda: client().exists(f"{app.runtime.topology.namespace}:open"))
        case "fails":
            raise ValueError("no money")
        case "exits":
            raise SystemExit(3)
    note("done", order.number)
    return PaymentCharged(number=order.number)


@app.on(PaymentCharged)
def record(charged: PaymentCharged) -> None:
    note("recorded", charged.number)
