"""Depths: how many messages wait in queues, and what waits at their front. Nothing is consumed."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import amqp
from kombu import Connection, Queue

from choreo.broker.incoming import DELIVERY_COUNT
from choreo.broker.lines import TIMEOUT, ensure_connected
from choreo.broker.redis.consuming import is_choreos

#: How many messages at the front of a queue are read. Those that came back are put there.
FRONT = 3
#: The end of the name of each platform's exchange.
_EXCHANGE = "choreo.events"


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits in one queue."""

    #: The number of messages, without those that a worker holds.
    count: int
    #: When the event was announced that is taken next, in seconds since 1970. None: unknown, as always on RabbitMQ.
    first: float | None = None
    #: The subject of that event.
    subject: str = ""
    #: How often a message at the front came back because its worker died or gave it back.
    returned: int = 0
    #: The number of consumers. None: the broker does not tell, as always on Redis.
    consumers: int | None = None


class Depths:
    """Reads queues on one connection, which it keeps. Not safe in threads. Each method raises the broker's errors."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._held: Connection | None = None

    def look(self, queues: Sequence[str]) -> dict[str, Depth]:
        """Queue → what waits in it. A queue that does not exist is left out."""
        connection = self._connection
        if is_choreos(connection):
            return _in_redis(connection.default_channel, queues)
        return self._declared(connection, queues)

    def namespaces(self) -> list[str] | None:
        """The namespaces of the platforms on this broker; None if the broker does not tell, as always on RabbitMQ."""
        connection = self._connection
        if not is_choreos(connection):
            return None
        channel = connection.default_channel
        names = [name.decode(errors="replace") for name in channel.wire.command("HKEYS", channel.keys.exchanges)]
        ours = [name for name in names if name == _EXCHANGE or name.endswith(f".{_EXCHANGE}")]
        return sorted(name.removesuffix(_EXCHANGE).removesuffix(".") for name in ours)

    def server(self) -> dict[str, Any] | None:
        """What the broker's Redis tells of itself, as `redis.Redis.info` gives it. None on RabbitMQ."""
        connection = self._connection
        return dict(connection.default_channel.client.info()) if is_choreos(connection) else None

    @property
    def _connection(self) -> Connection:
        if self._held is None:
            connection = self._connect()
            ensure_connected(connection)
            if isinstance(connection.connection, amqp.Connection):
                connection.connection.transport.sock.settimeout(TIMEOUT)
            self._held = connection
        return self._held

    def _declared(self, connection: Connection, queues: Sequence[str]) -> dict[str, Depth]:
        found = {}
        channel = connection.channel()
        for queue in queues:
            try:
                told = Queue(queue, channel=channel).queue_declare(passive=True)
            except connection.channel_errors as error:
                if getattr(error, "reply_code", None) != amqp.NotFound.code and "NOT_FOUND" not in str(error):
                    raise
            else:
                found[queue] = Depth(told.message_count, consumers=told.consumer_count)
        channel.close()
        return found

    def close(self) -> None:
        """Close the connection. A later call opens it again."""
        held, self._held = self._held, None
        if held is not None:
            held.release()


def _in_redis(channel: Any, queues: Sequence[str]) -> dict[str, Depth]:
    lists = [
        (queue, channel.global_keyprefix + channel._q_for_pri(queue, step))
        for queue in queues
        for step in channel.priority_steps
    ]
    commands = [command for _, key in lists for command in (("LLEN", key), ("LRANGE", key, -FRONT, -1))]
    # A few thousand answers at a time, so that neither side must hold more.
    answers: list[Any] = []
    for start in range(0, len(commands), 1000):
        answers += channel.wire.commands(commands[start : start + 1000])
    counts: dict[str, int] = {}
    fronts: dict[str, list[bytes]] = {}
    for (queue, _), count, front in zip(lists, answers[::2], answers[1::2], strict=True):
        # A refusal: the key is no list. Then no message can be in it.
        counts[queue] = counts.get(queue, 0) + (0 if isinstance(count, Exception) else count)
        if isinstance(front, list):
            fronts.setdefault(queue, []).extend(reversed(front))
    return {queue: _depth(count, fronts.get(queue, [])) for queue, count in counts.items()}


def _depth(count: int, front: Sequence[bytes]) -> Depth:
    texts = [_read(text) for text in front]
    first, subject = _event_in(texts[0]) if texts else (None, "")
    return Depth(count, first, subject, max((_returns(text) for text in texts), default=0))


def _read(text: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        read = json.loads(text)
        if isinstance(read, dict):
            return read
    return {}


def _event_in(message: dict[str, Any]) -> tuple[float | None, str]:
    """The time and the subject of the event in a message; (None, "") for anything else."""
    with suppress(ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        event = json.loads(message["body"])[0][0]
        return datetime.fromisoformat(event["time"]).timestamp(), str(event.get("subject") or "")
    return None, ""


def _returns(message: dict[str, Any]) -> int:
    headers = message.get("headers")
    count = headers.get(DELIVERY_COUNT) if isinstance(headers, dict) else None
    return count if type(count) is int else 0
