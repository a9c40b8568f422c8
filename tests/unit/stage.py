"""A service without broker, server or worker: deliveries run here, time moves when told, and nothing leaves."""

import json
from collections.abc import Iterable
from typing import Any

from celery.result import EagerResult

from choreo import DeadLetter, Envelope, Event, Service
from choreo.broker.publisher import Publisher
from choreo.delivery.clock import Clock
from choreo.errors import PublishError
from choreo.events.message import Message
from choreo.store.memory import MemoryStore
from tests.unit.events import envelope


def service(name: str = "payment", **options: Any) -> Service:
    """A service that needs no broker to be declared."""
    app = Service(name, config=None, broker="memory://", set_as_current=False, **options)
    app.conf.choreo_store_url = "memory:"
    return app


class Outbox(Publisher):
    """Keeps what would be sent. ``broken`` makes it a broker that takes nothing."""

    def __init__(self, app: Service) -> None:
        super().__init__(app.connection_for_write, app.runtime.topology.exchange)
        self.messages: list[Message] = []
        self.broken = False

    def send(self, messages: Iterable[Message]) -> None:
        messages = list(messages)
        if self.broken and messages:
            raise PublishError("the broker is down")
        self.messages += messages

    def announce(self, envelopes: Iterable[Envelope]) -> None:
        self.send([self.message_for(envelope) for envelope in envelopes])

    @property
    def announced(self) -> list[Envelope]:
        """The events that were broadcast."""
        return [read(message) for message in self.messages if message.exchange]


def read(message: Message) -> Envelope:
    return Envelope.from_wire(json.loads(message.body)[0][0])


class Stage:
    """One service and its deliveries."""

    def __init__(self, app: Service) -> None:
        self.app = app
        self.now = 1000.0
        self.clock = Clock(app.runtime)
        self.outbox = app.runtime.publisher = Outbox(app)
        self.store = app.runtime.store = MemoryStore(app.terms, lambda: self.now)
        app.runtime.introduce()

    def deliver(self, event: Event | Envelope, handler: str = "", *, attempt: int = 1, **about: Any) -> EagerResult:
        """Run one delivery of an event, as a worker would."""
        received = envelope(event, **about) if isinstance(event, Event) else event
        name = handler or self.app.subscriptions[0].name
        return self.app.tasks[name].apply(args=[received.to_wire()], retries=attempt - 1)

    def pass_time(self, seconds: float) -> list[EagerResult]:
        """Move the clock, and deliver whatever falls due for a handler; the rest goes to the outbox."""
        self.now += seconds
        results = []
        for owner in self.app.runtime.schedules():
            for key, kept in self.store.due(owner, 100, 10.0):
                self.store.sent(owner, [key])
                message = kept or self.clock.reminder(owner, key)
                if message.exchange == "" and message.routing_key in self.app.tasks:
                    retries = message.headers["retries"]
                    results.append(self.deliver(read(message), owner, attempt=retries + 1))
                else:
                    self.outbox.send([message])
        return results

    @property
    def letters(self) -> list[DeadLetter]:
        return list(self.app.dead_letters)

    @property
    def announced(self) -> list[str]:
        """The types of the events that were broadcast."""
        return [sent.type for sent in self.outbox.announced]
