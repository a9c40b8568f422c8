"""A service whose handlers are `async def`: they wait without a thread, and note what they see."""

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta

import redis

from choreo import AsyncProceed, Context, DeadLetter, Retry, Service, Terms
from tests.integration.async_events import OrderPacked, OrderPlaced, OrderShipped, PaymentCharged

# As in `claims_app`: without a log of each run a worker takes its shortest way.
for log in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(log).setLevel(logging.WARNING)

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
NOTEBOOK = redis.Redis.from_url(SETTINGS["choreo_store_url"], decode_responses=True)
LIMITS = json.loads(os.environ.get("CHOREO_TEST_LIMITS", "{}"))

#: Set by each run, and seen by no other.
NUMBER: ContextVar[int] = ContextVar("number", default=0)

app = Service(
    "payment",
    broker=os.environ["CHOREO_TEST_BROKER"],
    config=SETTINGS,
    terms=Terms(lease=timedelta(seconds=3), max_deliveries=4),
    retry=Retry(times=1, first=0.1, cap=0.1),
)


def note(what: str, number: int | str) -> None:
    NOTEBOOK.rpush(f"{app.runtime.topology.namespace}:{what}", number)


@app.around
async def counted(context: Context, proceed: AsyncProceed) -> None:
    NUMBER.set(int(context.envelope.data.get("number", 0)))
    await proceed()


@app.on(OrderPlaced, **LIMITS)
async def charge_customer(order: OrderPlaced, context: Context) -> PaymentCharged:
    note("begun", order.number)
    note("threads", threading.active_count())
    if order.blocks:
        time.sleep(0.4)
    while order.stubborn:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.2)
    await asyncio.sleep(order.seconds)
    while order.waits and not NOTEBOOK.exists(f"{app.runtime.topology.namespace}:open"):
        await asyncio.sleep(0.05)
    seen = await asyncio.gather(asyncio.create_task(sees()), sees())
    task = app.current_task
    # In each task of this run: its own number, context and Celery task.
    is_own = seen == [(order.number, context.envelope.id, task.request.id)] * 2
    note("seen" if is_own else "mixed up", order.number)
    if order.fails:
        raise ValueError("no such card")
    app.publish(OrderPacked(number=order.number))
    note("done", order.number)
    return PaymentCharged(number=order.number)


async def sees() -> tuple[int, str, str]:
    from choreo.declare.context import current

    await asyncio.sleep(0.001)
    context, task = current(), app.current_task
    return NUMBER.get(), context.envelope.id if context else "", task.request.id if task else ""


@app.join(PaymentCharged, OrderPacked)
async def ship(charged: PaymentCharged, packed: OrderPacked) -> AsyncIterator[OrderShipped]:
    assert charged.number == packed.number
    await asyncio.sleep(0)
    yield OrderShipped(number=charged.number)


@app.on(OrderShipped)
async def tell_customer(shipped: OrderShipped) -> None:
    await asyncio.sleep(0)
    note("shipped", shipped.number)


@app.dead_letter
async def tell(letter: DeadLetter) -> None:
    await asyncio.sleep(0)
    note("told", letter.envelopes[0].data["number"])
