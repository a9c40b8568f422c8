"""A stage with one service, whose deliveries a test makes one by one: each is the Celery task that a worker runs."""

from datetime import UTC, datetime
from typing import Any

from celery.result import EagerResult

from choreo import DeadLetterRecorded, Envelope, Event, Service, testing
from choreo.delivery.clock import Clock
from choreo.testing import Delivered
from tests.unit.events import envelope

START = datetime.fromtimestamp(1000, UTC)


def service(name: str = "payment", **options: Any) -> Service:
    """A service that needs no broker to be declared."""
    app = Service(name, config=None, broker="memory://", set_as_current=False, **options)
    app.conf.choreo_store_url = "memory:"
    return app


class Stage(testing.Stage):
    """It stands in for the broker and the store of its service for as long as this lives."""

    def __init__(self, app: Service, start: datetime = START) -> None:
        super().__init__(app, start=start)
        self.__enter__()
        self.app = app
        self.store, self.publisher = app.runtime.store, app.runtime.publisher
        self.clock = Clock(app.runtime)

    def deliver(self, event: Event | Envelope, handler: str = "", *, attempt: int = 1, **about: Any) -> EagerResult:
        """Run the task of one handler with an event. No other handler hears of it."""
        received = envelope(event, **about) if isinstance(event, Event) else event
        name = handler or self.app.subscriptions[0].name
        return self.app.tasks[name].apply(args=[received.to_wire()], retries=attempt - 1)

    def wait(self, seconds: float) -> None:
        """Let time pass. Nothing that falls due is sent."""
        self._clock.seconds += seconds

    def pass_time(self, seconds: float) -> list[Delivered]:
        """Let time pass as `advance` does. Returns the deliveries to handlers that were made."""
        before = len(self.deliveries)
        self.advance(seconds=seconds)
        return [made for made in self.deliveries[before:] if not made.handler.endswith(".dead_letters")]

    @property
    def types(self) -> list[str]:
        """The types of the events that were announced, without those that tell of dead letters."""
        return [event.type for event in self.told_by_services]

    @property
    def told_by_services(self) -> list[Envelope]:
        """The events that were announced, without those that tell of dead letters."""
        return [event for event in self.events if event.type != DeadLetterRecorded.event_type]
