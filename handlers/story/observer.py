"""
A passive listener: it receives all events, and Celery's worker events about each run.

It reads the events from a queue of its own, which is bound to all types and deleted at the end of the story. Worker
events are those that Flower reads, too.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from queue import Empty, PriorityQueue
from typing import Any
from uuid import uuid4

from kombu import Consumer, Queue
from kombu.mixins import ConsumerMixin

from choreo import Envelope, Service
from choreo.declare.join import Join
from choreo.declare.subscription import Subscription

#: Seconds for which each event is held back. Events and worker events travel on different paths; this delay puts them
#: into the order in which they happened.
HOLD_SECONDS = 0.25


@dataclass(frozen=True, order=True)
class Happening:
    """One line of the story."""

    #: Seconds since 1970.
    at: float
    service: str
    subject: str
    text: str
    #: The handler that ran. '' for an event.
    handler: str = ""
    #: True if an attempt failed.
    trouble: bool = False


class Observer(ConsumerMixin):
    """Listens in its own thread between start() and stop()."""

    def __init__(self, app: Service, services: list[Service]) -> None:
        self._app = app
        self._subscriptions: dict[str, Subscription] = {
            subscription.name: subscription for service in services for subscription in service.subscriptions
        }
        self._happenings: PriorityQueue[Happening] = PriorityQueue()
        self._runs: dict[str, Run] = {}
        #: Every received event, by its id.
        self.events: dict[str, Envelope] = {}
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self.run, kwargs={"safety_interval": 0.2}, daemon=True)

    def start(self) -> None:
        """Begin to listen. Receives every event that is announced later. Raises `TimeoutError` after 10 s."""
        self.connection = self._app.connection_for_read()
        self._thread.start()
        if not self._listening.wait(10):
            raise TimeoutError("the observer could not listen to the broker within 10 s")

    def stop(self) -> None:
        """Stop listening, and wait for the thread, for 5 s at most."""
        self.should_stop = True
        if self._thread.ident is not None:
            self._thread.join(5)

    def next(self) -> Happening | None:
        """Return the next happening; None while an earlier one may still be under way."""
        try:
            happening = self._happenings.get_nowait()
        except Empty:
            return None
        if time.time() - happening.at < HOLD_SECONDS:
            self._happenings.put(happening)
            return None
        return happening

    # -- called by kombu -----------------------------------------------------------------------------------------

    def get_consumers(self, make: Any, channel: Any) -> list[Consumer]:
        """Return consumers of all events and all worker events."""
        everything = Queue(
            self._app.runtime.topology.name_of(f"audience.{uuid4().hex[:8]}"),
            self._app.runtime.topology.exchange,
            routing_key="#",
            durable=False,
            exclusive=True,
            auto_delete=True,
        )
        receiver = self._app.events.Receiver(channel, handlers={"*": self._on_worker_event})
        return [
            make(queues=[everything], callbacks=[self._on_event], no_ack=True, accept=["json"]),
            *receiver.get_consumers(make, channel),
        ]

    def on_consume_ready(self, *_: Any, **__: Any) -> None:
        """Let start() return."""
        self._listening.set()

    # -- callbacks -----------------------------------------------------------------------------------------------

    def _on_event(self, body: Any, _: Any) -> None:
        envelope = Envelope.from_wire(body[0][0])
        self.events[envelope.id] = envelope
        cause = self.events.get(envelope.causation_id or "")
        heard = cause.type if cause is not None else "a customer"
        text = f"{heard} -> {envelope.type}"
        self._happenings.put(Happening(envelope.time.timestamp(), envelope.source, envelope.subject, text))

    def _on_worker_event(self, event: Mapping[str, Any]) -> None:
        if event["type"] == "task-received":
            self._runs[event["uuid"]] = Run.of(event, self._subscriptions)
        run = self._runs.get(event.get("uuid", ""))
        if run is None:
            return
        text = run.outcome(event)
        if text is not None:
            trouble = event["type"] in ("task-retried", "task-failed")
            self._happenings.put(Happening(event["timestamp"], run.service, run.subject, text, run.handler, trouble))


@dataclass(frozen=True)
class Run:
    """One attempt of one handler, from the worker event `task-received`."""

    service: str
    handler: str
    #: The type of the handled event.
    heard: str
    subject: str
    attempt: int
    subscription: Subscription | None

    @classmethod
    def of(cls, received: Mapping[str, Any], subscriptions: Mapping[str, Subscription]) -> "Run":
        """Return the run that this worker event begins."""
        service, _, handler = received["name"].rpartition(".")
        heard, _, subject = received["args"].rpartition(" ")
        attempt = int(received.get("retries") or 0) + 1
        return cls(service, handler, heard, subject, attempt, subscriptions.get(received["name"]))

    def outcome(self, event: Mapping[str, Any]) -> str | None:
        """Return the outcome in words; None if the announced events show it already."""
        if self.subscription is None:
            return None  # a notice of a dead letter: the event that tells of it is shown
        error = str(event.get("exception", "")).partition("(")[0]
        match event["type"]:
            case "task-retried":
                return f"{self.heard} -> attempt {self.attempt} of {self._attempts} failed: {error}"
            case "task-failed":
                return f"{self.heard} -> attempt {self.attempt} of {self._attempts} failed: dead letter"
            case "task-succeeded":
                return self._success(str(event["result"]).strip("'\""))
        return None

    def _success(self, answer: str) -> str | None:
        if answer.startswith("announced"):
            return None
        if answer.startswith("waiting"):
            return f"{self.heard} -> {self.handler} waits"
        if isinstance(self.subscription, Join):
            # An event that arrives after the join has fired or was cancelled is ignored.
            cancels = answer == "done" and self.heard in self.subscription.unless
            return f"{self.heard} -> {self.handler} cancelled" if cancels else None
        return f"{self.heard} -> {self.handler} {answer}"

    @property
    def _attempts(self) -> int:
        assert self.subscription is not None
        return self.subscription.retry.attempts
