"""Lines: connections for publishing.

A line is one connection, used by one thread at a time. After an error it is dropped, since messages and answers may
still be under way on it. A forked process makes lines of its own.
"""

import struct
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

#: Seconds to wait for an answer of the broker.
TIMEOUT = 5.0
#: The most lines of one process.
LINES = 10
_FAULTS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, struct.error)


@dataclass(slots=True, eq=False)
class Post:
    """A message that is being published, and the broker's answer."""

    message: Message
    #: True once the broker holds the message for every queue that it is meant for.
    confirmed: bool = False
    #: The reason why the broker did not take the message; "" if there is none. It is not sent again then.
    refused: str = ""
    #: False if the broker is well, and refused this message.
    is_outage: bool = True
    #: True if a queue got the message, False if none did; None if the broker does not say.
    heard: bool | None = None

    @property
    def pending(self) -> bool:
        """True until the broker has confirmed or refused the message."""
        return not (self.confirmed or self.refused)

    @property
    def to_one_queue(self) -> bool:
        """True if the message is addressed to one queue by its name, and not to an exchange."""
        return self.message.exchange == ""

    def __str__(self) -> str:
        return str(self.message.headers.get("argsrepr") or self.message.routing_key)


class Line(Protocol):
    """One connection for publishing. The caller must drop it after an exception."""

    def send(self, posts: Sequence[Post]) -> None:
        """Send all posts, and mark each as confirmed or refused. After an exception some are still pending."""

    def is_passing(self, error: Exception) -> bool:
        """True if sending again on a new line may succeed."""

    def concerns_one(self, error: Exception) -> bool:
        """True if the error is due to one of several messages, so that the others may succeed on a new line."""

    def is_outage(self, error: Exception) -> bool:
        """False if the error is due to the message, so that sending it again would fail again."""

    def why(self, error: Exception) -> str:
        """The error as a text for people."""

    def drop(self) -> None:
        """Close the connection without a request to the broker, which may no longer answer."""


class VirtualLine(Line):
    """A line to a broker without publisher confirms (memory): a message counts as confirmed when the call returns."""

    def __init__(self, connection: Connection, exchange: Exchange) -> None:
        connection.transport_options.setdefault("socket_timeout", TIMEOUT)
        self._connection = connection
        self._exchange = exchange
        self._producer: Any = None

    def send(self, posts: Sequence[Post]) -> None:
        """Send the posts one by one."""
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
                # Without the declaration kombu would take the exchange for a direct exchange.
                declare=[] if post.to_one_queue else [self._exchange],
            )
            post.confirmed = True

    def is_passing(self, error: Exception) -> bool:
        """True if the connection broke, except by a timeout."""
        return isinstance(error, self._connection.recoverable_connection_errors) and not _is_timeout(error)

    def concerns_one(self, error: Exception) -> bool:  # noqa: ARG002
        """False: messages are sent one by one."""
        return False

    def is_outage(self, error: Exception) -> bool:
        """False if the message cannot be written."""
        return not is_fault(error)

    def why(self, error: Exception) -> str:
        """The error as a text for people."""
        if _is_timeout(error):
            return f"the broker did not answer within {TIMEOUT:g} s"
        return str(error) or repr(error)

    def drop(self) -> None:
        """Close the connection, and wait for the socket for 1 second at most."""
        self._connection.collect(socket_timeout=1)


class Lines:
    """A pool of lines. Safe in threads, and in a forked child, which never uses its parent's sockets."""

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
        """
        A line for this block alone. If the block raises, the line is dropped.

        Raises `PublishError` if no line is free within `TIMEOUT` seconds.
        """
        forks.notice()
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
        # Another thread may take the last one in between, so an empty deque is no error.
        with suppress(IndexError):
            while True:
                self._idle.pop().drop()

    def after_fork(self) -> None:
        """
        Begin again without lines, in a forked child: they belong to the parent.

        Forgetting them closes the child's copies of the sockets, and sends nothing. The semaphore is new too: a thread
        of the parent may have held it.
        """
        self._start()


def ensure_connected(connection: Connection) -> None:
    """Connect, trying each URL of the broker once. Raises the client's own error."""
    others = max(0, len(getattr(connection, "alt", None) or ()) - 1)
    connection.ensure_connection(
        max_retries=others, interval_start=0, interval_step=0.1, interval_max=0.1, reraise_as_library_errors=False
    )


def is_fault(error: Exception) -> bool:
    """True for the errors of a client that cannot write a message."""
    # An error of TLS may be a ValueError, too.
    return isinstance(error, _FAULTS) and not isinstance(error, OSError)


def _is_timeout(error: Exception) -> bool:
    # redis-py has a TimeoutError that is not derived from Python's.
    return isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError"
