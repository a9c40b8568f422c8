"""Worker events (what Flower reads), sent in fewer and larger messages."""

import logging
from collections.abc import Callable
from time import monotonic, time
from typing import Any

from celery.app.events import Events
from celery.events.dispatcher import EventDispatcher
from celery.utils.time import utcoffset
from kombu.exceptions import EncodeError

logger = logging.getLogger(__name__)

#: Seconds for which worker events are collected. Celery's own way is to send them at each turn of the event loop,
#: which with a pool of processes is at each handled event, and costs more than handling it.
COLLECT_SECONDS = 0.2

#: They are sent when nothing has been collected for a moment, in seconds, so that nothing to handle waits for that; but
#: at the latest after so many.
LULL_SECONDS, AT_THE_LATEST = 0.02, 0.3

#: The most that is collected.
BUFFER = 1000

#: What happens in the life of every task.
_OFTEN = frozenset({"task-received", "task-started", "task-succeeded"})


class Lull:
    """Finds the moment at which to ``send`` what is collected. ``hub`` is the event loop."""

    def __init__(self, hub: Any, send: Callable[[], object]) -> None:
        self._hub, self._send = hub, send
        self._is_awaited = False
        self._until = self._collected_at = 0.0

    def collected(self) -> None:
        """Something was collected. From any thread."""
        self._collected_at = now = monotonic()
        if not self._is_awaited:
            self._is_awaited, self._until = True, now + AT_THE_LATEST
            # Timers are the loop's own business, and may only be set from within it.
            self._hub.call_soon(self._hub.call_later, COLLECT_SECONDS, self._look)

    def forget(self) -> None:
        """What was set in the loop is gone."""
        self._is_awaited = False

    def _look(self) -> None:
        now = monotonic()
        if now - self._collected_at < LULL_SECONDS and now < self._until:
            self._hub.call_later(LULL_SECONDS, self._look)
        else:
            self._is_awaited = False
            self._send()


class ServiceDispatcher(EventDispatcher):
    """
    Celery's dispatcher with a larger buffer, which outlives its connection.

    What was collected is written when it is sent, and where nobody listens only the first of it.
    """

    def __init__(self, *args: Any, buffer_limit: int = BUFFER, **options: Any) -> None:
        #: What all events say; empty until it is looked at again.
        self._about: dict[str, Any] = {}
        #: Where the exchange is known to be.
        self._declared_on: Any = None
        #: Whether somebody listened the last time, as far as the broker tells.
        self._is_heard = False
        super().__init__(*args, buffer_limit=buffer_limit, **options)

    def send(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """Celery's way, and a shorter one for what is collected and often."""
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
        parent_id: str,
        received: float,
        started: float,
        result: str,
        runtime: float,
    ) -> None:
        """Tell of a first run that it was received, started, and has succeeded, once it has. Times are since 1970."""
        facts = received_facts(name, args, root_id, parent_id)
        if self._is_collecting:
            self._collect(
                self._event("task-received", received, uuid=uuid, **facts),
                self._event("task-started", started, uuid=uuid),
                self._event("task-succeeded", uuid=uuid, result=result, runtime=runtime),
            )
        else:
            self.send("task-received", timestamp=received, uuid=uuid, **facts)
            self.send("task-started", timestamp=started, uuid=uuid)
            self.send("task-succeeded", uuid=uuid, result=result, runtime=runtime)

    @property
    def _is_collecting(self) -> bool:
        """Whether what happens often is wanted, and collected."""
        return self.enabled and "task" in self.buffer_group and not self.groups

    def _event(self, kind: str, timestamp: float | None = None, **fields: Any) -> dict[str, Any]:
        about = self._about  # which another thread may take away meanwhile
        if not about:
            about = self._about = {"hostname": self.hostname, "utcoffset": utcoffset(), "pid": self.pid}
        return {**about, "type": kind, "timestamp": timestamp or time(), "clock": self.clock.forward(), **fields}

    def _collect(self, *events: dict[str, Any]) -> None:
        collected = self._group_buffer["task"]
        collected += events
        if len(collected) >= self.buffer_limit:
            self.flush()
        elif self.on_send_buffered:
            self.on_send_buffered()

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        # The offset changes with the season.
        self._about = {}
        super().flush(errors, groups)

    def _publish(self, event: Any, producer: Any, routing_key: str, **options: Any) -> None:
        if not isinstance(event, list):
            super()._publish(event, producer, routing_key, **options)
            return
        if producer is None:
            return
        # One alone tells whether anybody listens. If nobody does, nobody would hear the others either.
        first = len(event) if self._is_heard else 1
        try:
            self._publish_some(event[:first], producer, routing_key)
            event = event[first:]
            if event and self._is_heard:
                self._publish_some(event, producer, routing_key)
        except EncodeError:
            # Celery would keep it, and what came with it, and fail each time that it sends what it kept.
            if len(event) > 1:
                for one in event:
                    self._publish([one], producer, routing_key)
            else:
                logger.exception("a worker event cannot be written, and nobody is told of it")
        except Exception:  # whatever a broker's client raises: it is sent with the next connection
            if not self.buffer_while_offline:
                raise
            self._outbound_buffer.append((event, routing_key))

    def _publish_some(self, events: list[Any], producer: Any, routing_key: str) -> None:
        channel = producer.channel
        producer.publish(
            events,
            routing_key=routing_key,
            exchange=self.exchange.name,
            # Kombu knows by itself what it has declared, and takes as long to find out as to send.
            declare=[self.exchange] if channel is not self._declared_on else None,
            serializer=self.serializer,
            headers=self.headers,
            delivery_mode=self.delivery_mode,
        )
        self._declared_on = channel
        # RabbitMQ does not tell.
        self._is_heard = getattr(channel, "listeners", None) != 0

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what another dispatcher has not sent, now that its connection is gone."""
        super().extend_buffer(other)
        for group, events in other._group_buffer.items():
            self._group_buffer[group].extend(events)


def received_facts(name: str, args: str, root_id: str, parent_id: str) -> dict[str, Any]:
    """What is told of a task that was received for the first time."""
    about = {"name": name, "args": args, "kwargs": "", "root_id": root_id, "parent_id": parent_id}
    return {**about, "retries": 0, "eta": None, "expires": None}


class ServiceEvents(Events):
    """``app.events`` of a service."""

    dispatcher_cls = "choreo.worker.worker_events:ServiceDispatcher"
