"""Bindings that exist on the broker: removing them, making them again, and looking at queues nobody reads.

No broker lists its bindings over the protocol, so the store remembers which ones there may be.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import amqp
from kombu import Connection, Exchange, Queue

from choreo.broker.lines import TIMEOUT, ensure_connected
from choreo.broker.redis.consuming import is_choreos
from choreo.declare.subscription import Binding


class Bindings:
    """The bindings of one exchange. Calls open connections of their own; they are rare, but for `ensure`."""

    def __init__(self, connect: Callable[[], Connection], exchange: Exchange) -> None:
        self._connect = connect
        self._exchange = exchange
        #: To Redis, for `ensure`.
        self._held: Connection | None = None

    def remove(self, bindings: Sequence[Binding]) -> None:
        """Remove bindings. What is gone already is no error."""

        def remove(channel: Any, queue: str, pattern: str) -> None:
            Queue(queue, channel=channel).unbind_from(self._exchange, routing_key=pattern)

        self._do(remove, bindings)

    def make(self, bindings: Sequence[Binding]) -> None:
        """Make bindings. A queue that does not exist gets none."""

        def make(channel: Any, queue: str, pattern: str) -> None:
            self._exchange(channel).declare()
            Queue(queue, channel=channel).bind_to(self._exchange, routing_key=pattern)

        self._do(make, bindings)

    def ensure(self, bindings: Sequence[Binding]) -> None:
        """Make those that are missing, as `make` does. RabbitMQ cannot tell which are, and makes what is there anew."""
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
        """Close what is held open. A later call opens it again."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def waiting(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages wait in each of these queues; those that do not exist are left out."""
        found: dict[str, int] = {}

        def look(channel: Any, queue: str) -> None:
            found[queue] = Queue(queue, channel=channel).queue_declare(passive=True).message_count

        self._do(look, [(queue,) for queue in queues])
        return found

    def _do(self, step: Callable[..., None], about: Iterable[tuple[str, ...]]) -> None:
        """Do a step for each. What does not exist is left out."""
        with self._connect() as connection:
            ensure_connected(connection)
            if isinstance(connection.connection, amqp.Connection):
                connection.connection.transport.sock.settimeout(TIMEOUT)
            # One channel costs as much as all that is done on it. RabbitMQ's client opens it again after a refusal.
            channel = connection.channel()
            for names in about:
                try:
                    step(channel, *names)
                except connection.channel_errors as error:
                    if getattr(error, "reply_code", None) != amqp.NotFound.code and "NOT_FOUND" not in str(error):
                        raise
