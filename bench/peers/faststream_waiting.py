"""
FastStream with one async handler: see `bench.waiting`. Redis Streams with a consumer group, or a durable queue.

As many handlers run at once as the setting says: ``max_workers`` on Redis, the prefetch on RabbitMQ, where FastStream
starts a task for each delivery. Events are acked after the handler, as FastStream does by default on RabbitMQ.

    python -m bench.peers.faststream_waiting COUNT      publish so many events
"""

import asyncio
import os
import sys
from typing import Any

from faststream import AckPolicy, FastStream

from bench import story
from bench.marks import mark
from bench.setting import current

_SET = current()
_ON_REDIS = _SET.broker_url.startswith("redis")
_SECONDS = float(os.environ["CHOREO_BENCH_WAIT"])
KIND, GROUP = "order.viewed", "waiter"


def _broker() -> Any:
    if _ON_REDIS:
        from faststream.redis import RedisBroker

        return RedisBroker(_SET.broker_url, logger=None)
    from faststream.rabbit import Channel, RabbitBroker

    return RabbitBroker(_SET.broker_url, logger=None, default_channel=Channel(prefetch_count=_SET.concurrency))


def _subscriber(broker: Any) -> Any:
    if _ON_REDIS:
        from faststream.redis import StreamSub

        stream = StreamSub(KIND, group=GROUP, consumer="waiter-1", max_records=_SET.concurrency, last_id=">")
        return broker.subscriber(stream=stream, ack_policy=AckPolicy.NACK_ON_ERROR, max_workers=_SET.concurrency)
    from faststream.rabbit import RabbitQueue

    return broker.subscriber(RabbitQueue(KIND, durable=True), ack_policy=AckPolicy.NACK_ON_ERROR)


broker = _broker()


@_subscriber(broker)
async def handle(event: dict) -> None:  # type: ignore[type-arg]  # FastStream reads this annotation
    """Wait, and mark the event as handled."""
    if _SECONDS:
        await asyncio.sleep(_SECONDS)
    mark(GROUP, event["data"]["n"])


app = FastStream(broker, logger=None)


async def fill(count: int) -> None:
    """Publish events, before the worker starts."""
    await broker.connect()
    if _ON_REDIS:
        import redis.asyncio

        client = redis.asyncio.Redis.from_url(_SET.broker_url)
        await client.xgroup_create(KIND, GROUP, "0", mkstream=True)
        await client.aclose()
        for number in range(count):
            await broker.publish(story.event(KIND, number), stream=KIND)
    else:
        from faststream.rabbit import RabbitQueue

        await broker.declare_queue(RabbitQueue(KIND, durable=True))
        for number in range(count):
            await broker.publish(story.event(KIND, number), KIND, persist=True)
    await broker.stop()


def run_worker(_: str) -> None:
    """Become the worker."""
    command = [
        sys.executable,
        "-m",
        "faststream",
        "run",
        "bench.peers.faststream_waiting:app",
        "--log-level",
        "warning",
    ]
    os.execvpe(command[0], [*command, "--loop", "uvloop:new_event_loop"], os.environ)


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[1])))
