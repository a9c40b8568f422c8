"""dramatiq: an actor per subscriber, one message to each, on Redis or RabbitMQ (confirmed). A hand-written join."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from bench import story
from bench.setting import current


def _make() -> tuple[Any, story.Publish]:
    import dramatiq

    setting = current()
    broker: Any
    if setting.broker_url.startswith("redis"):
        from dramatiq.brokers.redis import RedisBroker

        broker = RedisBroker(url=setting.broker_url)
    else:
        from dramatiq.brokers.rabbitmq import RabbitmqBroker

        broker = RabbitmqBroker(url=setting.broker_url, confirm_delivery=True)
    dramatiq.set_broker(broker)
    actors: dict[str, list[Any]] = {}

    def publish(kind: str, event: dict[str, Any]) -> None:
        for actor in actors[kind]:
            actor.send(event)

    for kind, services in story.HEARS.items():
        for service in services:

            def handle(event: dict[str, Any], _service: str = service) -> None:
                story.react(_service, event, publish)

            actor = dramatiq.actor(handle, actor_name=f"{service}.{kind}", queue_name=service, max_retries=3)
            actors.setdefault(kind, []).append(actor)
    return broker, publish


def run_worker(service: str) -> None:
    """Become the worker of a service."""
    threads = str(current().concurrency)
    command = [sys.executable, "-m", "dramatiq", "bench.peers.dramatiq", "--processes", "1", "--threads", threads]
    os.environ["CHOREO_BENCH_SERVICE"] = service
    os.execvpe(command[0], [*command, "--queues", service, "--skip-logging"], os.environ)


class Publisher:
    """See `bench.side.Publisher`. Sends one message per subscriber."""

    def __init__(self) -> None:
        self._broker, self._publish = _make()

    def prepare(self) -> None:
        """Declare exchanges, queues and bindings."""
        for service in story.SERVICES:
            self._broker.declare_queue(
                service, **({} if "redis" in type(self._broker).__module__ else {"ensure": True})
            )

    def publish_all(self, kind: str, numbers: Iterable[int]) -> None:
        """Publish one event for each number."""
        for number in numbers:
            self._publish(kind, story.event(kind, number))

    def publish_pairs(self, kinds: tuple[str, str], numbers: Iterable[int]) -> None:
        """Publish the two parts of a join for each number."""
        for number in numbers:
            for kind in kinds:
                self._publish(kind, story.event(kind, number))

    def close(self) -> None:
        """Close the connection."""
        self._broker.close()


if os.environ.get("CHOREO_BENCH_SERVICE") and "dramatiq" in sys.argv[0]:
    broker, _ = _make()
