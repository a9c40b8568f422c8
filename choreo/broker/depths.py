"""How much waits in queues, and since when. Looking changes nothing."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kombu import Connection

from choreo.broker.bindings import Bindings
from choreo.broker.lines import ensure_connected
from choreo.broker.redis.consuming import is_choreos
from choreo.broker.redis.packing import unpack
from choreo.events.envelope import Envelope
from choreo.events.message import parsed


@dataclass(frozen=True, slots=True)
class Depth:
    """How much waits in one queue. Messages in the hands of workers do not count."""

    #: The number of messages.
    waiting: int = 0
    #: When the event was announced that is taken next. None: the queue is empty, or the broker does not show it
    #: (RabbitMQ does not).
    since: datetime | None = None


class Depths:
    """Looks into queues, over a connection that it keeps. Not safe in threads."""

    def __init__(self, connect: Callable[[], Connection], bindings: Bindings) -> None:
        self._connect, self._bindings = connect, bindings
        self._held: Connection | None = None

    def look(self, queues: Sequence[str]) -> Mapping[str, Depth]:
        """
        Queue → how much waits in it. On RabbitMQ a queue that does not exist is left out.

        Raises an error of the broker's client if the broker does not answer.
        """
        if not queues:
            return {}
        try:
            channel = self._channel()
            if channel is not None:
                return {queue: _depth(*channel.depth(queue)) for queue in queues}
        except Exception:
            self.close()
            raise
        return {queue: Depth(waiting) for queue, waiting in self._bindings.message_counts(queues).items()}

    def close(self) -> None:
        """Close the connection. A later call opens it again."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def _channel(self) -> Any:
        """The channel of choreo's Redis transport; None on another broker."""
        if self._held is None:
            connection = self._connect()
            if not is_choreos(connection):
                return None
            ensure_connected(connection)
            self._held = connection
        return self._held.default_channel


def _depth(waiting: int, oldest: bytes | None) -> Depth:
    return Depth(waiting, None if oldest is None else _announced_at(oldest))


def _announced_at(text: bytes) -> datetime | None:
    """When the event in this message was announced; None if it holds none that can be read."""
    with suppress(Exception):  # any program can put anything into a queue
        event = parsed(unpack(text)["body"])[0][0]
        return Envelope.from_wire(parsed(event) if isinstance(event, str) else event).time
    return None
