"""Bindings that exist on the broker: removing them, making them again, and looking at queues nobody reads.

No broker lists its bindings over the protocol, so the store remembers which ones there may be.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import amqp
from kombu import Connection, Exchange, Queue

from choreo.broker.lines import TIMEOUT, ensure_connected
from choreo.store import Binding


class Bindings:
    """The bindings of one exchange. Every call opens a connection of its own; they are rare."""

    def __init__(self, connect: Callable[[], Connection], exchange: Exchange) -> None:
        self._connect = connect
        self._exchange = exchange

    def remove(self, bindings: Sequence[Binding]) -> None:
        """Remove bindings. What is gone already is no error."""
        with self._connected() as connection:
            for queue, pattern in bindings:
                with _tolerating_absence(connection), connection.channel() as channel:
                    Queue(queue, channel=channel).unbind_from(self._exchange, routing_key=pattern)

    def make(self, bindings: Sequence[Binding]) -> None:
        """Make bindings. A queue that does not exist gets none."""
        with self._connected() as connection:
            for queue, pattern in bindings:
                with _tolerating_absence(connection), connection.channel() as channel:
                    self._exchange(channel).declare()
                    Queue(queue, channel=channel).bind_to(self._exchange, routing_key=pattern)

    def waiting(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages wait in each of these queues; those that do not exist are left out."""
        found: dict[str, int] = {}
        with self._connected() as connection:
            for queue in queues:
                with _tolerating_absence(connection), connection.channel() as channel:
                    found[queue] = Queue(queue, channel=channel).queue_declare(passive=True).message_count
        return found

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        with self._connect() as connection:
            ensure_connected(connection)
            if isinstance(connection.connection, amqp.Connection):
                connection.connection.transport.sock.settimeout(TIMEOUT)
            yield connection


@contextmanager
def _tolerating_absence(connection: Connection) -> Iterator[None]:
    try:
        yield
    except connection.channel_errors as error:
        if getattr(error, "reply_code", None) != amqp.NotFound.code and "NOT_FOUND" not in str(error):
            raise
