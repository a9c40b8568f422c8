"""Depths: how many messages wait in queues, and what waits at their front. Nothing is consumed."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import amqp
from kombu import Connection, Queue

from choreo.broker.incoming import DELIVERY_COUNT
from choreo.broker.lines import TIMEOUT, ensure_connected
from choreo.broker.redis import scripts
from choreo.broker.redis.consuming import is_choreos
from choreo.broker.redis.keys import Keys

#: How many messages at the front of a queue are read. Those that came back are put there.
FRONT = 3
#: How many messages that workers hold are read: of those that were delivered before.
MOST_HELD = 100
#: The end of the name of each platform's exchange.
_EXCHANGE = "choreo.events"


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits in one queue."""

    #: The number of messages, without those that a worker holds. On Redis, with those that a dead worker held: they
    #: come back once another worker runs.
    count: int
    #: When the event was announced that is taken next, in seconds since 1970. None: unknown, as always on RabbitMQ.
    first: float | None = None
    #: The subject of that event.
    subject: str = ""
    #: How often one of the messages came back because its worker died or gave it back: one at the front, or one that a
    #: worker holds. 0 on RabbitMQ.
    returned: int = 0
    #: The number of messages that living workers hold. None on RabbitMQ.
    held: int | None = None
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


@dataclass
class _List:
    """What is known of one list in Redis, and of the messages in flight that came from it."""

    waiting: int = 0
    #: The messages that are taken next.
    front: list[bytes] = field(default_factory=list)
    #: In the hands of living workers, and of dead ones.
    held: int = 0
    lost: int = 0
    #: Some messages in flight that were delivered before, and some of those that dead workers held.
    again: list[bytes] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)


def _in_redis(channel: Any, queues: Sequence[str]) -> dict[str, Depth]:
    prefix, steps = channel.global_keyprefix, channel.priority_steps
    keys = {queue: [prefix + channel._q_for_pri(queue, step) for step in steps] for queue in queues}
    lists = {key: _List() for its in keys.values() for key in its}
    _read_waiting(channel.wire, lists)
    _read_in_flight(channel.wire, channel.keys, lists)
    return {queue: _depth([lists[key] for key in its]) for queue, its in keys.items()}


def _read_waiting(wire: Any, lists: Mapping[str, _List]) -> None:
    entries = list(lists.items())
    # Some at a time, so that neither side must hold thousands of answers.
    for start in range(0, len(entries), 500):
        some = entries[start : start + 500]
        answers = wire.commands([look for key, _ in some for look in (("LLEN", key), ("LRANGE", key, -FRONT, -1))])
        for (_, known), count, front in zip(some, answers[::2], answers[1::2], strict=True):
            # It is refused if the key is no list. Then no message can be in it.
            if not isinstance(count, Exception) and not isinstance(front, Exception):
                known.waiting, known.front = count, front[::-1]


def _read_in_flight(wire: Any, keys: Keys, lists: Mapping[str, _List]) -> None:
    counts, texts = wire.call(scripts.HELD, [keys.consumers], [keys.inflight(""), MOST_HELD])
    for key, held, lost in zip(counts[::3], counts[1::3], counts[2::3], strict=True):
        if known := lists.get(key.decode(errors="replace")):
            known.held, known.lost = held, lost
    for key, is_dead, text in zip(texts[::3], texts[1::3], texts[2::3], strict=True):
        if known := lists.get(key.decode(errors="replace")):
            (known.left if is_dead else known.again).append(text)


def _depth(lists: Sequence[_List]) -> Depth:
    left = [_read(text) for known in lists for text in known.left]
    front = [_read(text) for known in lists for text in known.front]
    again = [_read(text) for known in lists for text in known.again]
    events = [event for message in (*left, *front[:1]) if (event := _event_in(message))[0] is not None]
    first, subject = min(events, default=(None, ""))
    return Depth(
        count=sum(known.waiting + known.lost for known in lists),
        first=first,
        subject=subject,
        returned=max(map(_returns, (*left, *front, *again)), default=0),
        held=sum(known.held for known in lists),
    )


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
