"""
Orders over HTTP: a FastAPI application that announces events, and the service that reacts to them.

    uvicorn orders_api:api
    celery -A orders_api:app worker --pool threads --concurrency 100

BROKER_URL is the broker; the default is Redis on this machine. docs/async.md explains what happens at each await.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from choreo import DeadLetter, Event, PublishError, Service

REDIS = "redis://127.0.0.1:6379/0"


class OrderPlaced(Event):
    customer_id: str
    total_cents: int


class OrderConfirmed(Event):
    minutes: int


app = Service("orders", announces=[OrderPlaced], broker=os.environ.get("BROKER_URL", REDIS), config=None)


@app.on(OrderPlaced)
async def confirm(order: OrderPlaced) -> OrderConfirmed:
    return OrderConfirmed(minutes=30 if order.total_cents < 10_000 else 60)


@app.on(OrderConfirmed)
async def tell_the_customer(confirmed: OrderConfirmed) -> None:
    print(f"{confirmed.meta.subject} comes in {confirmed.minutes} minutes")


@app.dead_letter
async def alarm(letter: DeadLetter) -> None:
    print(f"{letter.subject} needs somebody: {letter.error}")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    # The clients of the broker are imported, and the settings are read. What is wrong with them ends the start.
    await asyncio.to_thread(lambda: app.publisher)
    yield
    await asyncio.to_thread(app.publisher.close)


api = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    customer_id: str
    total_cents: int


@api.post("/orders", status_code=202)
async def place(order: Order) -> dict[str, str]:
    order_id = f"ORD-{uuid4()}"
    try:
        event = await app.apublish(OrderPlaced(**order.model_dump()), subject=order_id)
    except PublishError as error:
        raise HTTPException(503, "try again in a moment", {"Retry-After": "5"}) from error
    return {"order_id": order_id, "event_id": event.id}


@api.post("/orders/import", status_code=202)
async def place_many(orders: list[Order]) -> dict[str, int]:
    events = (OrderPlaced(**order.model_dump()).about(f"ORD-{uuid4()}") for order in orders)
    try:
        return {"placed": await app.apublish_many(events)}
    except PublishError as error:
        raise HTTPException(503, f"{error.before + len(error.confirmed)} of {len(orders)} were placed") from error
