"""Worker events (Celery's own events, which Flower reads), sent in fewer and larger messages."""

import logging
from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import Any, NamedTuple

from celery.app.events import Events
from celery.events.dispatcher import EventDispatcher
from celery.utils.time import utcoffset
from kombu.exceptions import EncodeError

from choreo.cached import cached_property

logger = logging.getLogger(__name__)

#: Seconds for which worker events are collected. Celery sends them at each turn of the event loop. With a pool of
#: processes that is once per handled event, which costs more than handling it.
COLLECT_SECONDS = 0.2

#: After that they are sent in the first pause of LULL_SECONDS without a new one, so that no event to handle waits for
#: the sending; but AT_THE_LATEST seconds after the first was collected.
LULL_SECONDS, AT_THE_LATEST = 0.02, 0.3

#: The most worker events that are collected; then they are sent at once.
BUFFER = 1000

#: The worker events of every run. Only these are collected the short way.
_OFTEN = frozenset({"task-received", "task-started", "task-succeeded"})


class Lull:
    """Calls ``send`` in a pause, some time after the first worker event was collected. ``hub`` is the event loop."""

    def __init__(self, hub: Any, send: Callable[[], object]) -> None:
        self._hub, self._send = hub, send
        self._is_awaited = False
        self._until = self._collected_at = 0.0

    def collected(self) -> None:
        """Call this, from any thread, when a worker event was collected."""
        self._collected_at = now = monotonic()
        if not self._is_awaited:
            self._is_awaited, self._until = True, now + AT_THE_LATEST
            # Timers may only be set in the loop's own thread.
            self._hub.call_soon(self._hub.call_later, COLLECT_SECONDS, self._look)

    def forget(self) -> None:
        """Call this when the event loop has lost its timers: the next worker event sets a new one."""
        self._is_awaited = False

    def _look(self) -> None:
        now = monotonic()
        if now - self._collected_at < LULL_SECONDS and now < self._until:
            self._hub.call_later(LULL_SECONDS, self._look)
        else:
            self._is_awaited = False
            self._send()


class RunEvents(NamedTuple):
    """The worker events of a run that has succeeded, until they are sent: received, started, succeeded."""

    #: The fields that all worker events of this process have.
    about: Mapping[str, Any]
    #: The logical time of the last of them.
    clock: int
    uuid: str
    #: The fields of "task-received": see `received_facts`.
    name: str
    args: str
    root_id: str
    parent_id: str | None
    #: Unix times.
    received: float
    started: float
    succeeded: float
    result: str
    #: In seconds.
    runtime: float

    def apart(self) -> list[dict[str, Any]]:
        """The three worker events."""
        same = {**self.about, "uuid": self.uuid}
        facts = received_facts(self.name, self.args, self.root_id, self.parent_id)
        end = {"result": self.result, "runtime": self.runtime}
        return [
            {**same, "type": "task-received", "timestamp": self.received, "clock": self.clock - 2, **facts},
            {**same, "type": "task-started", "timestamp": self.started, "clock": self.clock - 1},
            {**same, "type": "task-succeeded", "timestamp": self.succeeded, "clock": self.clock, **end},
        ]


class ServiceDispatcher(EventDispatcher):
    """
    Celery's dispatcher with a larger buffer, whose content outlives the connection.

    Worker events are encoded when they are sent, and not when they are collected; those of a success are also made
    then. While nothing listens (no Flower), only the first of those that were collected is encoded and sent, as far as
    the broker tells: Redis does.
    """

    def __init__(self, *args: Any, buffer_limit: int = BUFFER, **options: Any) -> None:
        #: The fields that all worker events have; empty after each `flush`, and then made anew.
        self._about: dict[str, Any] = {}
        #: The channel on which the exchange was declared.
        self._declared_on: Any = None
        #: True if something listened at the last sending, as far as the broker tells.
        self._is_heard = False
        super().__init__(*args, buffer_limit=buffer_limit, **options)

    def send(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """Send or collect a worker event, as Celery does; the most frequent ones in a shorter way."""
        if self._queues and type == "task-received":
            self._tell_sent(fields)
        if type in _OFTEN and self._is_collecting:
            self._collect(self._event(type, **fields))
        else:
            super().send(type, **fields)

    def send_run(
        self,
        uuid: str,
        name: str,
        args: str,
        root_id: str,
        parent_id: str | None,
        received: float,
        started: float,
        result: str,
        runtime: float,
    ) -> None:
        """
        Send the worker events of a run that has succeeded at its first attempt: received, started, succeeded.

        ``received`` and ``started`` are Unix times, ``runtime`` is in seconds.
        """
        if self._queues or not self._is_collecting:
            facts = received_facts(name, args, root_id, parent_id)
            self.send("task-received", timestamp=received, uuid=uuid, **facts)
            self.send("task-started", timestamp=started, uuid=uuid)
            self.send("task-succeeded", uuid=uuid, result=result, runtime=runtime)
            return
        with self.clock.mutex:
            clock = self.clock.value = self.clock.value + 3
        about = self._about or self._new_about()
        self._collect(
            RunEvents(about, clock, uuid, name, args, root_id, parent_id, received, started, time(), result, runtime), 3
        )

    @cached_property
    def _queues(self) -> Mapping[str, str]:
        """
        The tasks whose messages choreo sends, with their queues, if ``task_send_sent_event`` is on; else empty.

        Celery sends the worker event "task-sent" for all other tasks.
        """
        runtime = getattr(self.app, "runtime", None)
        if runtime is None or not self.app.conf.task_send_sent_event:
            return {}
        return {name: runtime.queue_of(name) for name in runtime.registered_names()}

    def _tell_sent(self, received: Mapping[str, Any]) -> None:
        """
        Send "task-sent" for a task that was received. Exporters of metrics learn the queue of a task from it.

        The publisher cannot send it: it does not know the queues.
        """
        queue = self._queues.get(received.get("name", ""))
        if queue is not None:
            facts = {name: fact for name, fact in received.items() if name != "type"}
            self.send("task-sent", **facts, queue=queue, exchange="", routing_key=queue)

    @property
    def _is_collecting(self) -> bool:
        """True if worker events about tasks are enabled and collected."""
        return self.enabled and "task" in self.buffer_group and not self.groups

    def _event(self, kind: str, timestamp: float | None = None, **fields: Any) -> dict[str, Any]:
        # `_about` is read once: another thread may empty it.
        about = self._about or self._new_about()
        return {**about, "type": kind, "timestamp": timestamp or time(), "clock": self.clock.forward(), **fields}

    def _new_about(self) -> dict[str, Any]:
        about = self._about = {"hostname": self.hostname, "utcoffset": utcoffset(), "pid": self.pid}
        return about

    def _collect(self, event: dict[str, Any] | RunEvents, weight: int = 1) -> None:
        """Keep a worker event, or several, until the next `flush`. ``weight``: how many of them it is."""
        collected = self._group_buffer["task"]
        collected.append(event)
        if len(collected) * weight >= self.buffer_limit:
            self.flush()
        elif self.on_send_buffered:
            self.on_send_buffered()

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Send the collected worker events, as Celery does."""
        # Made anew, since the UTC offset in it changes with daylight saving time.
        self._about = {}
        super().flush(errors, groups)

    def _publish(self, event: Any, producer: Any, routing_key: str, **options: Any) -> None:
        if not isinstance(event, list):
            super()._publish(event, producer, routing_key, **options)
            return
        if producer is None:
            return
        # The answer to the first tells if something listens. If not, the others need not be made, encoded and sent.
        first = len(event) if self._is_heard else 1
        try:
            self._publish_some(_apart(event[:first]), producer, routing_key)
            event = event[first:]
            if event and self._is_heard:
                self._publish_some(_apart(event), producer, routing_key)
        except EncodeError:
            # Celery would keep this worker event and those sent with it, and fail at each later sending.
            event = _apart(event)
            if len(event) > 1:
                for one in event:
                    self._publish([one], producer, routing_key)
            else:
                logger.exception("a worker event cannot be encoded, and is dropped")
        except Exception:  # any error of a broker's client: they are sent over the next connection
            if not self.buffer_while_offline:
                raise
            self._outbound_buffer.append((event, routing_key))

    def _publish_some(self, events: list[Any], producer: Any, routing_key: str) -> None:
        channel = producer.channel
        producer.publish(
            events,
            routing_key=routing_key,
            exchange=self.exchange.name,
            # Kombu remembers its declarations by itself, but looking there takes as long as sending.
            declare=[self.exchange] if channel is not self._declared_on else None,
            serializer=self.serializer,
            headers=self.headers,
            delivery_mode=self.delivery_mode,
        )
        self._declared_on = channel
        # RabbitMQ does not tell, and the attribute is missing there.
        self._is_heard = getattr(channel, "listeners", None) != 0

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over the worker events that another dispatcher has not sent, because its connection is gone."""
        super().extend_buffer(other)
        for group, events in other._group_buffer.items():
            self._group_buffer[group].extend(events)


def _apart(events: list[Any]) -> list[dict[str, Any]]:
    """These worker events, with those of each run that are made now."""
    apart: list[dict[str, Any]] = []
    for event in events:
        if type(event) is RunEvents:
            apart += event.apart()
        else:
            apart.append(event)
    return apart


def received_facts(name: str, args: str, root_id: str, parent_id: str | None) -> dict[str, Any]:
    """The fields of the worker event "task-received" for a task that is received for the first time."""
    about = {"name": name, "args": args, "kwargs": "", "root_id": root_id, "parent_id": parent_id}
    return {**about, "retries": 0, "eta": None, "expires": None}


class ServiceEvents(Events):
    """``app.events`` of a service: Celery's, with a `ServiceDispatcher`."""

    dispatcher_cls = "choreo.worker.worker_events:ServiceDispatcher"
