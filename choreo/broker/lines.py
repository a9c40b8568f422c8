"""Connections to publish on.

A line is one connection, in the hands of one thread at a time. It is used until something goes wrong on it, and then
thrown away: after an error nobody knows what is still under way on it. A process that was forked makes its own.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from kombu import Connection, Exchange, Producer

from choreo import forks
from choreo.errors import PublishError
from choreo.events.message import Message

#: Seconds without any answer after which the broker counts as stuck.
TIMEOUT = 5.0
#: How many lines one process has at most.
LINES = 10


@dataclass(slots=True, eq=False)
class Post:
    """A message on its way."""

    message: Message
    #: The broker holds it for every queue that it is meant for.
    confirmed: bool = False
    #: Why the broker does not take it; it is not tried again.
    refused: str = ""
    #: Whether any queue got it; None where the broker does not say.
    heard: bool | None = None

    @property
    def pending(self) -> bool:
        return not (self.confirmed or self.refused)

    @property
    def to_one_queue(self) -> bool:
        return self.message.exchange == ""

    def __str__(self) -> str:
        return str(self.message.headers.get("argsrepr") or self.message.routing_key)


class Line(Protocol):
    """One connection to publish on. After an exception it is to be dropped."""

    def send(self, posts: Sequence[Post]) -> None:
        """Send all, and mark each as confirmed or refused. Raises whatever the client raises, some still pending."""

    def is_passing(self, error: Exception) -> bool:
        """Whether the same may well succeed on a new line."""

    def concerns_one(self, error: Exception) -> bool:
        """Whether the error is about one of several messages, and a new line would take the others."""

    def why(self, error: Exception) -> str:
        """The error in words for people."""

    def drop(self) -> None:
        """Close without asking the broker, which may no longer answer."""


class VirtualLine(Line):
    """A line to a broker of which kombu knows no confirms (memory): what the call did not refuse is there."""

    def __init__(self, connection: Connection, exchange: Exchange) -> None:
        connection.transport_options.setdefault("socket_timeout", TIMEOUT)
        self._connection = connection
        self._exchange = exchange
        self._producer: Any = None

    def send(self, posts: Sequence[Post]) -> None:
        if self._producer is None:
            ensure_connected(self._connection)
            self._producer = Producer(self._connection.channel(), auto_declare=False)
        for post in posts:
            message = post.message
            self._producer.publish(
                message.body,
                exchange="" if post.to_one_queue else self._exchange,
                routing_key=message.routing_key,
                headers=message.headers,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                delivery_mode=2,
                # Without the declaration a fresh process would not know that the exchange is a topic exchange.
                declare=[] if post.to_one_queue else [self._exchange],
            )
            post.confirmed = True

    def is_passing(self, error: Exception) -> bool:
        return isinstance(error, self._connection.recoverable_connection_errors) and not _is_timeout(error)

    def concerns_one(self, error: Exception) -> bool:  # noqa: ARG002 - never: messages are sent one by one
        return False

    def why(self, error: Exception) -> str:
        if _is_timeout(error):
            return f"the broker did not answer within {TIMEOUT:g} s"
        return str(error) or repr(error)

    def drop(self) -> None:
        self._connection.collect(socket_timeout=1)


class Lines:
    """A pool of lines. Safe in threads, and in a forked child, which never touches its parent's sockets."""

    def __init__(self, make: Callable[[], Line], limit: int = LINES) -> None:
        self._make = make
        self._limit = limit
        self._start()
        forks.guard(self)

    def _start(self) -> None:
        self._idle: deque[Line] = deque()
        self._free = threading.Semaphore(self._limit)

    @contextmanager
    def one(self) -> Iterator[Line]:
        """A line for this block alone. If the block raises, the line is dropped."""
        free, idle = self._free, self._idle
        if not free.acquire(timeout=TIMEOUT):
            raise PublishError(f"all {self._limit} connections of this process were busy for {TIMEOUT:g} s")
        try:
            line = self._take(idle)
            try:
                yield line
            except BaseException:
                line.drop()
                raise
            idle.append(line)
        finally:
            free.release()

    def _take(self, idle: deque[Line]) -> Line:
        try:
            return idle.pop()
        except IndexError:
            return self._make()

    def close(self) -> None:
        """Drop the lines that are not in use."""
        # Another thread may take the last one meanwhile.
        with suppress(IndexError):
            while True:
                self._idle.pop().drop()

    def after_fork(self) -> None:
        # The lines belong to the parent. Forgetting them closes this process's copy of each socket and sends nothing;
        # the semaphore may have been held by a thread that does not exist here.
        self._start()


def ensure_connected(connection: Connection) -> None:
    """Connect, trying each address of a list once. Raises the client's own error."""
    others = max(0, len(getattr(connection, "alt", None) or ()) - 1)
    connection.ensure_connection(
        max_retries=others, interval_start=0, interval_step=0.1, interval_max=0.1, reraise_as_library_errors=False
    )


def _is_timeout(error: Exception) -> bool:
    # redis-py has a TimeoutError of its own, which is no OSError.
    return isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError"
