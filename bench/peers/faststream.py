"""
FastStream. On Redis: streams with consumer groups, acked after the handler. On RabbitMQ: a durable topic exchange, a
queue per service and type, confirmed publishes. The join is a Lua script written by hand, as FastStream has none.

Joins and handlers are async, as users of FastStream write them. The Lua call is awaited.
"""

import asyncio
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from faststream import AckPolicy, FastStream

from bench import story
from bench.setting import current

_SET = current()
_ON_REDIS = _SET.broker_url.startswith("redis")


def _broker() -> tuple[Any, Any]:
    """Return the broker, and a function that publishes with it."""
    if _ON_REDIS:
        from faststream.redis import RedisBroker

        broker = RedisBroker(_SET.broker_url, logger=None)

        async def publish(kind: str, event: dict[str, Any]) -> None:
            await broker.publish(event, stream=kind)

        return broker, publish
    from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange

    rabbit = RabbitBroker(_SET.broker_url, logger=None, default_channel=Channel(prefetch_count=_SET.prefetch))
    exchange = RabbitExchange("bench.events", type=ExchangeType.TOPIC, durable=True)

    async def announce(kind: str, event: dict[str, Any]) -> None:
        await rabbit.publish(event, exchange=exchange, routing_key=kind, persist=True)

    return rabbit, announce


def _subscriber(broker: Any, service: str, kind: str) -> Any:
    if _ON_REDIS:
        from faststream.redis import StreamSub

        stream = StreamSub(kind, group=service, consumer=f"{service}-1", max_records=_SET.prefetch)
        return broker.subscriber(stream=stream, ack_policy=AckPolicy.NACK_ON_ERROR)
    from faststream.rabbit import ExchangeType, RabbitExchange, RabbitQueue

    exchange = RabbitExchange("bench.events", type=ExchangeType.TOPIC, durable=True)
    queue = RabbitQueue(f"{service}.{kind}", durable=True, routing_key=kind)
    return broker.subscriber(queue, exchange, ack_policy=AckPolicy.NACK_ON_ERROR)


_script: Any = None


async def _arrived(kind: str, subject: str) -> bool:
    global _script
    if _script is None:
        import redis.asyncio

        _script = redis.asyncio.Redis.from_url(_SET.redis_url).register_script(story.JOIN_LUA)
    return bool(await _script(keys=[story.join_key(kind, subject)], args=[kind, 2]))


def _handler(service: str, publish: Any) -> Any:
    async def handle(cause: dict) -> None:  # type: ignore[type-arg]  # FastStream reads this annotation
        kind, number = cause["type"], cause["data"]["n"]
        if kind in story.PARTS and not await _arrived(kind, cause["subject"]):
            return
        answer = story.done(service, kind, number)
        if answer is not None:
            await publish(answer, story.event(answer, number))

    return handle


def application(service: str) -> FastStream:
    """Return the application of a service."""
    broker, publish = _broker()
    for kind in story.hears(service):
        _subscriber(broker, service, kind)(_handler(service, publish))
    return FastStream(broker, logger=None)


def run_worker(service: str) -> None:
    """Become the worker of a service."""
    command = [sys.executable, "-m", "faststream", "run", "bench.peers.faststream:app", "--log-level", "warning"]
    os.environ["CHOREO_BENCH_SERVICE"] = service
    os.execvpe(command[0], [*command, "--loop", "uvloop:new_event_loop"], os.environ)


class Publisher:
    """See `bench.side.Publisher`. Publishes one event after the other, and awaits each."""

    def __init__(self) -> None:
        import uvloop

        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._broker, self._publish = _broker()
        self._loop.run_until_complete(self._broker.start())

    def prepare(self) -> None:
        """Declare exchanges, queues and bindings."""
        self._loop.run_until_complete(self._prepare())

    async def _prepare(self) -> None:
        if _ON_REDIS:
            import redis.asyncio

            client = redis.asyncio.Redis.from_url(_SET.broker_url)
            for kind, services in story.HEARS.items():
                for service in services:
                    await client.xgroup_create(kind, service, "0", mkstream=True)
            await client.aclose()
            return
        from faststream.rabbit import ExchangeType, RabbitExchange, RabbitQueue

        exchange = await self._broker.declare_exchange(
            RabbitExchange("bench.events", type=ExchangeType.TOPIC, durable=True)
        )
        for kind, services in story.HEARS.items():
            for service in services:
                queue = await self._broker.declare_queue(RabbitQueue(f"{service}.{kind}", durable=True))
                await queue.bind(exchange, routing_key=kind)

    def publish_all(self, kind: str, numbers: Iterable[int]) -> None:
        """Publish one event for each number."""
        self._loop.run_until_complete(self._run((kind, number) for number in numbers))

    def publish_pairs(self, kinds: tuple[str, str], numbers: Iterable[int]) -> None:
        """Publish the two parts of a join for each number."""
        self._loop.run_until_complete(self._run((kind, number) for number in numbers for kind in kinds))

    async def _run(self, events: Iterator[tuple[str, int]]) -> None:
        for kind, number in events:
            await self._publish(kind, story.event(kind, number))

    def close(self) -> None:
        """Close the connection."""
        self._loop.run_until_complete(self._broker.stop())


if name := os.environ.get("CHOREO_BENCH_SERVICE"):
    app = application(name)
