"""
choreo with one async handler: see `bench.waiting`.

    python -m bench.sides.choreo_waiting COUNT      publish so many events
"""

import asyncio
import os
import sys
from datetime import timedelta

from bench import story
from bench.marks import mark
from bench.setting import current
from choreo import Event, Service
from choreo.store import Terms

_SET = current()
_SECONDS = float(os.environ["CHOREO_BENCH_WAIT"])


class OrderViewed(Event):
    n: int
    customer_id: str
    restaurant_id: str
    items: list[str]
    total_cents: int
    note: str


app = Service(
    "waiter",
    config={"broker_url": _SET.broker_url, "choreo_store_url": _SET.redis_url, "worker_prefetch_multiplier": 1},
    terms=Terms(lease=timedelta(seconds=15)),
)


@app.on(OrderViewed)
async def handle(viewed: OrderViewed) -> None:
    """Wait, and mark the event as handled."""
    if _SECONDS:
        await asyncio.sleep(_SECONDS)
    mark("waiter", viewed.n)


def fill(count: int) -> None:
    """Publish events, before the worker starts."""
    with app.connection_for_write() as connection:
        for queue in app.amqp.queues.values():
            queue(connection.default_channel).declare()
    app.publish_many(OrderViewed(**story.data(number)).about(f"ORD-{number:08d}") for number in range(count))


if __name__ == "__main__":
    fill(int(sys.argv[1]))
