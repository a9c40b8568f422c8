"""Publishing on RabbitMQ: messages are sent one after the other, and confirmed meanwhile.

A channel in confirm mode numbers its messages. The broker answers ``ack`` (it holds the message for every queue) or
``nack`` (it does not), for one number or for all numbers up to it. Waiting for each answer before the next message
would cost a round trip and a disk write per message. So a line writes many messages at once, and waits for answers
after the last one, or when `WINDOW` messages have none.

Every message is ``mandatory``: the broker returns a message that no queue gets, and then acks it. For a message to one
queue that is an error. For an event it means that nobody listens.

With ``plain``, a second exchange for programs in other languages, each event is sent there as well, as a CloudEvent in
structured mode. It is confirmed once the broker has acked both messages. That nobody listens there is no matter.

Every wait is on a socket with a timeout, so a silent broker costs `TIMEOUT` seconds.
"""

from collections.abc import Sequence
from itertools import takewhile
from time import monotonic
from typing import Any

import amqp
from amqp import spec
from kombu import Connection, Exchange

from choreo.broker.lines import TIMEOUT, Line, Post, ensure_connected, is_fault
from choreo.broker.rabbitmq.outlet import CHUNK, Outlet
from choreo.events.cloud_events import STRUCTURED

#: The most messages of a line without an answer. RabbitMQ becomes faster with more of them up to about a thousand.
WINDOW = 1000


class SilenceError(TimeoutError):
    """The broker has neither confirmed nor refused a message within `TIMEOUT` seconds."""


class RabbitLine(Line):
    """A line to RabbitMQ, with one channel in confirm mode. See `choreo.broker.lines.Line`."""

    def __init__(self, connection: Connection, exchange: Exchange, plain: Exchange | None = None) -> None:
        # py-amqp's option `confirm_publish` would wait for a confirm after every message.
        connection.transport_options |= {
            "confirm_publish": False,
            "on_blocked": self._block,
            "on_unblocked": self._unblock,
        }
        self._connection = connection
        self._exchange = exchange
        self._plain = plain
        self._channel: Any = None
        self._outlet: Outlet = None  # type: ignore[assignment] # made with the channel
        self._declared = False
        self._blocked = False
        self._number = 0
        self._unanswered: dict[int, Post] = {}
        self._posts: Sequence[Post] = ()

    def send(self, posts: Sequence[Post]) -> None:
        """Send all posts, and wait for all answers. Raises `SilenceError`, or the client's error."""
        self._posts = posts
        channel = self._open()
        if not self._declared and not all(post.to_one_queue for post in posts):
            self._patient()
            self._exchange(channel).declare()
            if self._plain is not None:
                self._plain(channel).declare()
            self._declared = True
        for post in posts:
            if len(self._unanswered) > WINDOW - 2:
                self._collect(WINDOW // 2)
            self._publish(post)
            if self._outlet.size >= CHUNK:
                self._outlet.flush(TIMEOUT)
                self._outlet.look()
        self._collect()

    def _open(self) -> Any:
        if self._channel is None:
            ensure_connected(self._connection)
            self._patient()
            channel = self._connection.channel()
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)
            self._outlet = Outlet(channel, self._on_ack, self._on_nack)
            self._channel = channel
        return self._channel

    def _patient(self) -> None:
        """Give py-amqp time for a request. Without a timeout it may wait for ever."""
        self._connection.connection.transport.sock.settimeout(TIMEOUT)

    def _publish(self, post: Post) -> None:
        message = post.message
        exchange, plain = ("", None) if post.to_one_queue else (self._exchange.name, self._plain)
        post.heard, post.due = True, 1 if plain is None else 2
        self._put(post, exchange, message.body, message.headers, message.content_type, message.content_encoding)
        if plain is not None:
            self._put(post, plain.name, message.plain_event(), None, STRUCTURED, "utf-8", mandatory=False)

    def _put(
        self,
        post: Post,
        exchange: str,
        body: bytes,
        headers: dict[str, Any] | None,
        content_type: str,
        content_encoding: str,
        *,
        mandatory: bool = True,
    ) -> None:
        # The number is noted before sending: the answer may arrive while the next message is being written.
        self._note(post)
        routing_key, outlet = post.message.routing_key, self._outlet
        frames = outlet.encoder.frames(
            exchange, routing_key, body, headers, content_type, content_encoding, mandatory=mandatory
        )
        if frames is not None:
            outlet.add(frames)
            return
        outlet.flush(TIMEOUT)
        self._patient()
        message = self._channel.prepare_message(
            body,
            content_type=content_type,
            content_encoding=content_encoding,
            headers=headers,
            properties={"delivery_mode": 2},
        )
        self._channel.basic_publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)

    def _note(self, post: Post) -> None:
        self._number += 1
        self._unanswered[self._number] = post

    def _collect(self, most: int = 0) -> None:
        """Write what waits, and wait until ``most`` messages have no answer. Each answer restarts the timeout."""
        self._outlet.flush(TIMEOUT)
        self._outlet.take()
        left, deadline = len(self._unanswered), monotonic() + TIMEOUT
        while len(self._unanswered) > most:
            if len(self._unanswered) < left:
                left, deadline = len(self._unanswered), monotonic() + TIMEOUT
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise SilenceError
            try:
                self._outlet.listen(remaining)
            except TimeoutError:
                raise SilenceError from None

    def _on_ack(self, number: int, multiple: bool) -> None:
        for post in self._answered(number, multiple):
            # The broker also acks a message that it has returned: `_on_return` has marked it before.
            post.due -= 1
            post.confirmed = not (post.refused or post.due)

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
        numbers = list(takewhile(lambda waiting: waiting <= number, self._unanswered))
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
        # The exchange was declared before anything was sent: its arguments concern all.
        is_of_a_message = isinstance(error, amqp.PreconditionFailed) and bool(self._unanswered)
        return is_of_a_message and sum(post.pending for post in self._posts) > 1

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
