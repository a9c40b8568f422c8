"""Nameko: events on RabbitMQ, eventlet, confirmed publishes. The join is a Lua script written by hand."""

import signal
import sys
from collections.abc import Iterable
from typing import Any

from bench import story
from bench.setting import current

_SOURCES = {**story.SOURCES, "item.packed": "orders", "label.printed": "orders"}


def _config() -> dict[str, Any]:
    setting = current()
    # Nameko's prefetch is the number of its workers.
    return {"AMQP_URI": setting.broker_url.replace("amqp:", "pyamqp:"), "max_workers": setting.prefetch}


def run_worker(service: str) -> None:
    """Run the worker of a service until it is stopped."""
    import eventlet

    eventlet.monkey_patch()
    from nameko.events import EventDispatcher, event_handler
    from nameko.runners import ServiceRunner

    body: dict[str, Any] = {"name": service, "dispatch": EventDispatcher()}
    for kind in story.hears(service):
        source = _SOURCES.get(kind, "orders")

        def handle(self: Any, event: dict[str, Any]) -> None:
            story.react(service, event, self.dispatch)

        handle.__name__ = f"on_{kind.replace('.', '_')}"
        body[handle.__name__] = event_handler(source, kind, requeue_on_error=True)(handle)
    runner = ServiceRunner(_config())
    runner.add_service(type("Reacting", (), body))
    runner.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    runner.wait()


class Publisher:
    """See `bench.side.Publisher`. Dispatches events as the service ``orders``."""

    def __init__(self) -> None:
        from nameko.standalone.events import event_dispatcher

        self._dispatch = event_dispatcher(_config(), use_confirms=True)

    def prepare(self) -> None:
        """Declare exchanges, queues and bindings."""
        from kombu import Connection, Queue
        from nameko.standalone.events import get_event_exchange

        with Connection(_config()["AMQP_URI"]) as connection:
            for kind, services in story.HEARS.items():
                source = _SOURCES.get(kind, "orders")
                exchange = get_event_exchange(source, {})
                for service in services:
                    # The names that nameko gives to its queues.
                    name = f"evt-{source}-{kind}--{service}.on_{kind.replace('.', '_')}"
                    Queue(name, exchange, kind, durable=True)(connection.default_channel).declare()

    def publish_all(self, kind: str, numbers: Iterable[int]) -> None:
        """Publish one event for each number."""
        for number in numbers:
            self._dispatch("orders", kind, story.event(kind, number))

    def publish_pairs(self, kinds: tuple[str, str], numbers: Iterable[int]) -> None:
        """Publish the two parts of a join for each number."""
        for number in numbers:
            for kind in kinds:
                self._dispatch("orders", kind, story.event(kind, number))
