"""Finds the messages about a subject, an event or a story: in queues, and in the hands of workers. Consumes nothing."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kombu import Connection

from choreo.broker.incoming import DELIVERY_COUNT
from choreo.broker.lines import ensure_connected
from choreo.broker.redis.consuming import is_choreos
from choreo.broker.redis.packing import unpack
from choreo.events.envelope import Envelope
from choreo.events.message import parsed

#: The most messages of one queue, and of all queues, that are looked at.
MOST, MOST_IN_ALL = 10_000, 50_000
#: How many messages one call reads.
PAGE = 1000
#: The name of an owner: see `choreo.broker.redis.ownership.new_owner`.
_OWNER = re.compile(r"(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{12}-\d+-\d+")


@dataclass(frozen=True, slots=True)
class Queued:
    """A message that waits in a queue, or that a worker has taken."""

    #: The name of the queue on the broker.
    queue: str
    #: The event. If the message cannot be read, only its type and subject are known.
    event: Envelope
    #: The attempt that the message is for, from 1.
    attempt: int = 1
    #: How often it came back because its worker died or gave it back.
    returned: int = 0
    #: 1 for the message that is taken next. 0: a worker has it.
    position: int = 0
    #: The number of messages in the queue. 0: a worker has it.
    count: int = 0
    #: The host and the process that have it; "" and 0 if it waits.
    host: str = ""
    pid: int = 0
    #: False if that worker has died: its messages return soon, once another worker notices.
    is_holder_alive: bool = True


@dataclass(frozen=True, slots=True)
class FoundMessages:
    """What was found on the broker."""

    messages: Sequence[Queued] = ()
    #: True if the broker lets its queues be looked into. RabbitMQ does not, without taking messages out of them.
    is_open: bool = True
    #: What was not looked through, in words.
    notes: Sequence[str] = field(default_factory=tuple)


def find_messages(connect: Callable[[], Connection], queues: Sequence[str], texts: Sequence[bytes]) -> FoundMessages:
    """
    The messages in these queues, or taken from them, that contain one of the texts.

    ``connect`` is a callback: it returns a connection, which is closed at the end. Raises the broker's errors.
    """
    with connect() as connection:
        ensure_connected(connection)
        if not is_choreos(connection):
            return FoundMessages(is_open=False)
        search = _Search(connection.default_channel, texts)
        taken = list(search.taken(set(queues)))
        waiting = [message for queue in search.filled(queues) for message in search.waiting(queue)]
        return FoundMessages([*taken, *waiting], notes=search.notes)


class _Search:
    """One search in Redis."""

    def __init__(self, channel: Any, texts: Sequence[bytes]) -> None:
        self._channel, self._texts = channel, texts
        self._left = MOST_IN_ALL
        self.notes: list[str] = []

    def _lists(self, queue: str) -> list[str]:
        channel = self._channel
        return [channel.global_keyprefix + channel._q_for_pri(queue, step) for step in channel.priority_steps]

    def filled(self, queues: Sequence[str]) -> list[str]:
        """The queues that have messages."""
        keys = [(queue, key) for queue in queues for key in self._lists(queue)]
        counts = self._ask([("LLEN", key) for _, key in keys])
        filled = {queue for (queue, _), count in zip(keys, counts, strict=True) if isinstance(count, int) and count}
        return [queue for queue in queues if queue in filled]

    def waiting(self, queue: str) -> Iterator[Queued]:
        """The sought messages in a queue, the next one first."""
        lists = self._lists(queue)
        counts = [count if isinstance(count, int) else 0 for count in self._ask([("LLEN", key) for key in lists])]
        before, total, left = 0, sum(counts), min(MOST, self._left)
        for key, count in zip(lists, counts, strict=True):
            for start in range(0, min(count, max(left - before, 0)), PAGE):
                texts = self._channel.wire.command("LRANGE", key, -start - PAGE, -start - 1)
                for number, text in enumerate(reversed(texts), start=1):
                    if self._is_sought(text):
                        yield _read(text, queue, position=before + start + number, count=total)
            before += count
        self._left -= min(total, left)
        if total > left:
            self.notes.append(f"only the first {left} of the {total} messages in {queue} were looked at")

    def taken(self, queues: set[str]) -> Iterator[Queued]:
        """The sought messages in the hands of workers."""
        keys, wire = self._channel.keys, self._channel.wire
        ((time, owners),) = wire.timed([("ZRANGE", keys.consumers, 0, -1, "WITHSCORES")])
        now = int(time[0]) * 1000
        names = {key: queue for queue in queues for key in self._lists(queue)}
        for owner, dies_at in _pairs(owners):
            fields = wire.command("HVALS", keys.inflight(owner))
            for record in fields:
                key, _, rest = record.partition(b"\0")
                text = rest.partition(b"\0")[2]
                queue = names.get(key.decode(errors="replace"))
                if queue is not None and self._is_sought(text):
                    who = _OWNER.fullmatch(owner)
                    host, pid = (who["host"], int(who["pid"])) if who else (owner, 0)
                    # A time of 0: it is leaving, and has its messages for a moment more.
                    is_alive = dies_at == 0 or dies_at > now
                    yield _read(text, queue, host=host, pid=pid, is_holder_alive=is_alive)

    def _ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(commands), PAGE):
            answers += self._channel.wire.commands(commands[start : start + PAGE])
        return answers

    def _is_sought(self, text: bytes) -> bool:
        return any(sought in text for sought in self._texts)


def _pairs(answer: Sequence[Any]) -> Iterator[tuple[str, float]]:
    """Members and scores: [[member, score], ...] or, in the older protocol RESP2, [member, score, ...]."""
    flat = [part for pair in answer for part in (pair if isinstance(pair, (list, tuple)) else [pair])]
    for member, score in zip(flat[::2], flat[1::2], strict=True):
        yield member.decode(errors="replace"), float(score)


def _read(text: bytes, queue: str, **where: Any) -> Queued:
    message = unpack(text)
    headers = message.get("headers") or {}
    retries, returned = headers.get("retries"), headers.get(DELIVERY_COUNT)
    return Queued(
        queue,
        event_in(message.get("body"), headers),
        attempt=retries + 1 if type(retries) is int else 1,
        returned=returned if type(returned) is int else 0,
        **where,
    )


def event_in(body: Any, headers: dict[str, Any]) -> Envelope:
    """The event in the body of a message. If that cannot be read, what the headers tell of it."""
    with suppress(Exception):  # the body is foreign
        return Envelope.from_wire(parsed(body)[0][0])
    kind, _, subject = str(headers.get("argsrepr") or "").partition(" ")
    source = str(headers.get("origin") or "")
    never = datetime.fromtimestamp(0, UTC)
    return Envelope(str(headers.get("id") or ""), kind, source, subject, never, correlation_id="")
