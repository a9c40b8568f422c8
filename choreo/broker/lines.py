"""Lines: connections for publishing.

A line is one connection, used by one thread at a time. After an error it is dropped, since messages and answers may
still be under way on it. A forked process makes lines of its own.
"""

import queue
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kombu import Connection, Exchange, Producer

from choreo import forks
from choreo.errors import PublishError
from choreo.events.message import Message

if TYPE_CHECKING:
    from queue import SimpleQueue

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
    #: The broker's answers that are still due: a copy of the message for a second exchange is answered, too.
    due: int = 1
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


class Loan:
    """A line of a pool for one ``with`` block. In a process that was forked meanwhile it goes back to the old pool."""

    __slots__ = ("_idle", "_limit", "_line", "_make", "_turns")

    def __init__(self, turns: "SimpleQueue[None]", idle: deque[Line], make: Callable[[], Line], limit: int) -> None:
        self._turns, self._idle, self._make, self._limit = turns, idle, make, limit

    def __enter__(self) -> Line:
        """Wait for a turn. Raises `PublishError`: see `Lines.one`."""
        try:
            self._turns.get(timeout=TIMEOUT)
        except queue.Empty:
            raise PublishError(f"all {self._limit} connections of this process were busy for {TIMEOUT:g} s") from None
        try:
            self._line = self._take()
        except BaseException:
            self._turns.put(None)
            raise
        return self._line

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give the line back, or drop it after an exception."""
        try:
            if kind is None:
                self._idle.append(self._line)
            else:
                self._line.drop()
        finally:
            self._turns.put(None)

    def _take(self) -> Line:
        try:
            return self._idle.pop()
        except IndexError:
            return self._make()


class Lines:
    """A pool of lines. Safe in threads, and in a forked child, which never uses its parent's sockets."""

    def __init__(self, make: Callable[[], Line], limit: int = LINES) -> None:
        self._make = make
        self._limit = limit
        self._start()
        forks.guard(self)

    def _start(self) -> None:
        self._idle: deque[Line] = deque()
        # A turn for each line that may be in use. A semaphore of Python does the same in ten times the time.
        self._turns: SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(self._limit):
            self._turns.put(None)

    def one(self) -> "Loan":
        """
        A line for a ``with`` block alone. If the block raises, the line is dropped.

        Entering raises `PublishError` if no line is free within `TIMEOUT` seconds.
        """
        forks.notice()
        return Loan(self._turns, self._idle, self._make, self._limit)

    def close(self) -> None:
        """Drop the lines that are not in use."""
        # Another thread may take the last one in between, so an empty deque is no error.
        with suppress(IndexError):
            while True:
                self._idle.pop().drop()

    def after_fork(self) -> None:
        """
        Begin again without lines, in a forked child: they belong to the parent.

        Forgetting them closes the child's copies of the sockets, and sends nothing. The turns are new too: a thread of
        the parent may have had one.
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
