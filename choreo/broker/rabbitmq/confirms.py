"""Publishing on RabbitMQ: all messages are sent first, then the line waits for all confirms.

A channel in confirm mode numbers its messages. The broker answers ``ack`` (it holds the message for every queue) or
``nack`` (it does not), for one number or for all numbers up to it. Waiting for each answer before the next message
would cost a round trip and a disk write per message.

Every message is ``mandatory``: the broker returns a message that no queue gets, and then acks it. For a message to one
queue that is an error. For an event it means that nobody listens.

Every wait is on a socket with a timeout, so a silent broker costs `TIMEOUT` seconds.
"""

from collections.abc import Sequence
from time import monotonic
from typing import Any

import amqp
from amqp import spec
from kombu import Connection, Exchange

from choreo.broker.lines import TIMEOUT, Line, Post, ensure_connected, is_fault


class SilenceError(TimeoutError):
    """The broker has neither confirmed nor refused a message within `TIMEOUT` seconds."""


class RabbitLine(Line):
    """A line to RabbitMQ, with one channel in confirm mode. See `choreo.broker.lines.Line`."""

    def __init__(self, connection: Connection, exchange: Exchange) -> None:
        # py-amqp's option `confirm_publish` would wait for a confirm after every message.
        connection.transport_options |= {
            "confirm_publish": False,
            "on_blocked": self._block,
            "on_unblocked": self._unblock,
        }
        self._connection = connection
        self._exchange = exchange
        self._channel: Any = None
        self._declared = False
        self._blocked = False
        self._number = 0
        self._unanswered: dict[int, Post] = {}

    def send(self, posts: Sequence[Post]) -> None:
        """Send all posts, then wait for all answers. Raises `SilenceError`, or the client's error."""
        channel = self._open()
        if not self._declared and not all(post.to_one_queue for post in posts):
            self._exchange(channel).declare()
            self._declared = True
        for post in posts:
            self._publish(channel, post)
        self._collect()

    def _open(self) -> Any:
        if self._channel is None:
            ensure_connected(self._connection)
            # Without a timeout, opening and closing a channel may wait for ever.
            self._connection.connection.transport.sock.settimeout(TIMEOUT)
            channel = self._connection.channel()
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)
            self._channel = channel
        return self._channel

    def _publish(self, channel: Any, post: Post) -> None:
        message = post.message
        # The number is noted before sending: the answer may arrive while the next message is being written.
        self._number += 1
        self._unanswered[self._number] = post
        post.heard = True
        channel.basic_publish(
            channel.prepare_message(
                message.body,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                headers=message.headers,
                properties={"delivery_mode": 2},
            ),
            exchange="" if post.to_one_queue else self._exchange.name,
            routing_key=message.routing_key,
            mandatory=True,
        )

    def _collect(self) -> None:
        """Wait until every message is answered. Each answer restarts the timeout."""
        left, deadline = len(self._unanswered), monotonic() + TIMEOUT
        while self._unanswered:
            if len(self._unanswered) < left:
                left, deadline = len(self._unanswered), monotonic() + TIMEOUT
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise SilenceError
            try:
                self._connection.drain_events(timeout=remaining)
            except TimeoutError:
                raise SilenceError from None

    def _on_ack(self, number: int, multiple: bool) -> None:
        for post in self._answered(number, multiple):
            # The broker also acks a message that it has returned: `_on_return` has marked it before.
            post.confirmed = not post.refused

    def _on_nack(self, number: int, multiple: bool) -> None:
        for post in self._answered(number, multiple):
            post.refused, post.is_outage = "the broker could not store it (basic.nack); its log says more", False

    def _on_return(self, error: Exception, exchange: str, routing_key: str, returned: Any) -> None:  # noqa: ARG002
        event_id = (returned.properties.get("application_headers") or {}).get("id")
        for post in self._unanswered.values():
            message = post.message
            if post.heard and (message.exchange, message.routing_key) == (exchange, routing_key):
                if message.headers.get("id") != event_id:
                    continue
                post.heard = False
                if post.to_one_queue:
                    post.refused, post.is_outage = f"there is no queue {routing_key!r}", False
                return

    def _answered(self, number: int, multiple: bool) -> list[Post]:
        if not multiple:
            return [self._unanswered.pop(number)]
        # The dictionary is in the order of the numbers, since they only grow.
        numbers = [waiting for waiting in self._unanswered if waiting <= number]
        return [self._unanswered.pop(waiting) for waiting in numbers]

    def _block(self, reason: str) -> None:  # noqa: ARG002 - py-amqp does not pass the broker's reason
        self._blocked = True

    def _unblock(self) -> None:
        self._blocked = False

    def is_passing(self, error: Exception) -> bool:
        """True if the connection broke, or the exchange was deleted: a new line declares it again."""
        recoverable = (amqp.NotFound, *self._connection.recoverable_connection_errors)
        return isinstance(error, recoverable) and not isinstance(error, TimeoutError)

    def concerns_one(self, error: Exception) -> bool:
        """True if one of several messages was too large: RabbitMQ then closes the channel, and answers none of them."""
        return isinstance(error, amqp.PreconditionFailed) and len(self._unanswered) > 1

    def is_outage(self, error: Exception) -> bool:
        """False if the message is too large, or cannot be written."""
        is_too_large = isinstance(error, amqp.PreconditionFailed) and error.method_sig == spec.Basic.Publish
        return not (is_too_large or is_fault(error) or isinstance(error, amqp.FrameSyntaxError))

    def why(self, error: Exception) -> str:
        """The error as a text for people."""
        if self._blocked:
            return (
                f"the broker accepts nothing (connection.blocked) because it is short of memory or disk; waited "
                f"{TIMEOUT:g} s"
            )
        if isinstance(error, SilenceError):
            return f"the broker did not confirm it within {TIMEOUT:g} s"
        if isinstance(error, TimeoutError):
            return f"the broker did not answer within {TIMEOUT:g} s"
        return getattr(error, "reply_text", None) or str(error) or repr(error)

    def drop(self) -> None:
        """Close the connection without a request to the broker."""
        self._channel = None
        self._connection.collect()
