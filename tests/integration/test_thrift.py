"""A worker does not ask its broker, or tell Flower, more often than it has to."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from choreo.local.server import EmbeddedServer
from choreo.worker.worker_events import COLLECT_SECONDS
from tests.integration.claims_app import OrderPlaced
from tests.integration.test_claims import Payment
from tests.waiting import DEADLINE, eventually

COUNT = 60


@pytest.fixture
def payment(tmp_path: Path) -> Iterator[Payment]:
    # A server of its own: what it counts is what these workers did.
    with EmbeddedServer() as server:
        payment = Payment(server.url, f"test-{uuid4().hex[:8]}", tmp_path)
        try:
            yield payment
        finally:
            payment.close()


@pytest.fixture
def told(payment: Payment) -> Iterator[list[dict[str, Any]]]:
    """The worker events that Flower would see."""
    seen: list[dict[str, Any]] = []
    stop = threading.Event()

    def listen() -> None:
        with payment.app.connection_for_read() as connection:
            receiver = payment.app.events.Receiver(connection, handlers={"*": seen.append})
            with receiver.consumer_context() as (own_connection, _, _):
                while not stop.is_set():
                    with suppress(TimeoutError):
                        own_connection.drain_events(timeout=0.2)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    yield seen
    stop.set()
    thread.join(DEADLINE)


def calls(payment: Payment, command: str) -> int:
    return int(payment.redis.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_many_short_handlers_cost_few_messages_to_the_broker_and_to_flower(
    payment: Payment, told: list[dict[str, Any]], pool: str
):
    payment.ready(payment.start(pool))
    eventually(lambda: told, reason="the first worker event")
    takes, sent = calls(payment, "ltrim"), calls(payment, "publish")

    begun_at = time.monotonic()
    payment.app.publisher.announce([payment.envelope(OrderPlaced(number=number)) for number in range(COUNT)])

    eventually(lambda: len(payment.noted("done")) == COUNT)
    seconds = time.monotonic() - begun_at
    takes, sent = calls(payment, "ltrim") - takes, calls(payment, "publish") - sent
    assert takes < COUNT / 2, "only the script that takes messages uses LTRIM, each time that it does"
    # What comes within COLLECT_SECONDS goes out together, on a slow machine more often. One each would be 3 * COUNT.
    assert sent < COUNT / 2 + 2 * seconds / COLLECT_SECONDS
    for kind in ("task-received", "task-started", "task-succeeded"):
        eventually(lambda kind=kind: len({event["uuid"] for event in told if event["type"] == kind}) == COUNT)


def test_what_a_worker_did_last_is_told_before_it_ends(payment: Payment, told: list[dict[str, Any]]):
    worker = payment.start("solo")
    payment.ready(worker)
    eventually(lambda: told, reason="the first worker event")
    payment.place(OrderPlaced(number=1))
    eventually(lambda: payment.noted("done"))

    worker.terminate()
    worker.wait(DEADLINE)

    eventually(lambda: any(event["type"] == "task-succeeded" for event in told))
