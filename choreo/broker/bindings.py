"""Bindings on the broker: removing them, making them again; and whole queues: making, counting and deleting them.

No broker lists its bindings over the protocol, so the store remembers which ones may exist.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import amqp
from kombu import Connection, Exchange, Queue

from choreo.broker.lines import TIMEOUT, ensure_connected
from choreo.broker.redis.consuming import is_choreos
from choreo.events.patterns import Binding


class Bindings:
    """
    The bindings of one exchange.

    Each call opens a connection of its own, since calls are rare. Only `ensure` is called often: on Redis it keeps its
    connection.
    """

    def __init__(self, connect: Callable[[], Connection], exchange: Exchange) -> None:
        self._connect = connect
        self._exchange = exchange
        #: The connection to Redis that `ensure` keeps.
        self._held: Connection | None = None

    def remove(self, bindings: Sequence[Binding]) -> None:
        """Remove bindings. A binding that does not exist is no error."""

        def remove(channel: Any, queue: str, pattern: str) -> None:
            Queue(queue, channel=channel).unbind_from(self._exchange, routing_key=pattern)

        self._do(remove, bindings)

    def make(self, bindings: Sequence[Binding]) -> None:
        """Make bindings. A queue that does not exist is skipped."""

        def make(channel: Any, queue: str, pattern: str) -> None:
            self._exchange(channel).declare()
            Queue(queue, channel=channel).bind_to(self._exchange, routing_key=pattern)

        self._do(make, bindings)

    def declare(self, queues: Iterable[Queue]) -> None:
        """Make these queues with their bindings, as a worker does. What is there already stays as it is."""

        def declare(channel: Any, queue: Queue) -> None:
            queue(channel).declare()

        self._do(declare, [(queue,) for queue in queues])

    def delete(self, queue: str) -> int:
        """
        Delete an empty queue with all its bindings. Returns the number of messages that were lost with it.

        On Redis that is always 0: an empty queue is no key there, and a list that is filled meanwhile stays.
        """
        lost = 0

        def delete(channel: Any, queue: str) -> None:
            nonlocal lost
            if isinstance(channel, amqp.Channel):
                # A quorum queue takes no `if_empty`.
                lost = int(channel.queue_delete(queue) or 0)
            else:
                channel.forget_queue(queue)

        self._do(delete, [(queue,)])
        return lost

    def missing(self, bindings: Sequence[Binding]) -> Sequence[Binding] | None:
        """Those of these bindings that do not exist. None: the broker does not tell, as always on RabbitMQ."""
        with self._connect() as connection:
            if not is_choreos(connection):
                return None
            ensure_connected(connection)
            return list(connection.default_channel.missing(self._exchange.name, bindings))

    def ensure(self, bindings: Sequence[Binding]) -> None:
        """
        Make the bindings that are missing, as `make` does.

        RabbitMQ cannot tell which are missing: there all of them are made, and an existing one stays as it is.
        """
        try:
            missing = self._missing(bindings)
        except Exception:
            self.close()
            raise
        if missing:
            self.make(missing)

    def _missing(self, bindings: Sequence[Binding]) -> Sequence[Binding]:
        if self._held is None:
            connection = self._connect()
            if not is_choreos(connection):
                return bindings
            ensure_connected(connection)
            self._held = connection
        missing: list[Binding] = self._held.default_channel.missing(self._exchange.name, bindings)
        return missing

    def close(self) -> None:
        """Close the connection that `ensure` keeps. A later call opens it again."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def message_counts(self, queues: Sequence[str]) -> dict[str, int]:
        """Queue → how many messages wait in it. A queue that does not exist is left out."""
        found: dict[str, int] = {}

        def look(channel: Any, queue: str) -> None:
            found[queue] = Queue(queue, channel=channel).queue_declare(passive=True).message_count

        self._do(look, [(queue,) for queue in queues])
        return found

    def _do(self, step: Callable[..., None], about: Iterable[tuple[Any, ...]]) -> None:
        """Call ``step`` with each tuple of names. A queue or exchange that does not exist is skipped."""
        with self._connect() as connection:
            ensure_connected(connection)
            if isinstance(connection.connection, amqp.Connection):
                connection.connection.transport.sock.settimeout(TIMEOUT)
            # One channel for all steps: opening it takes as long as they do. py-amqp reopens it after a refusal.
            channel = connection.channel()
            for names in about:
                try:
                    step(channel, *names)
                except connection.channel_errors as error:
                    if getattr(error, "reply_code", None) != amqp.NotFound.code and "NOT_FOUND" not in str(error):
                        raise
