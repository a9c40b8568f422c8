"""Sending: an event becomes one broadcast, and the broker says that it has it."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any

from kombu import Connection, Exchange

from choreo import forks
from choreo.broker.lines import Line, Lines, Post, VirtualLine
from choreo.broker.rabbitmq.confirms import RabbitLine
from choreo.broker.redis.publish_line import RedisLine
from choreo.broker.redis.transport import Transport
from choreo.errors import DeclarationError, EventTooLargeError, PublishError
from choreo.events.envelope import Envelope
from choreo.events.message import MOST_NESTED, Message, is_too_deep

logger = logging.getLogger(__name__)

#: Larger events make every queue, every worker and the broker's memory pay for a blob: announce where it is instead.
MAX_EVENT_BYTES = 256 * 1024
#: Seconds to wait before each attempt, when a connection breaks or cannot be made.
PAUSES = (0.0, 0.0, 0.2, 0.5)


class Unheard(StrEnum):
    """What happens with an event to which no queue is bound. It is always counted."""

    IGNORE = "ignore"
    #: One line per type of event and process.
    LOG = "log"
    #: `Publisher.announce` raises. What a handler announces is logged: its commit has happened.
    ERROR = "error"

    @classmethod
    def of(cls, setting: str) -> "Unheard":
        """The setting ``choreo_unheard``. Raises `DeclarationError`."""
        try:
            return cls(setting)
        except ValueError:
            choices = ", ".join(repr(str(choice)) for choice in cls)
            raise DeclarationError(f"choreo_unheard = {setting!r}: it takes one of {choices}.") from None


class Publisher:
    """
    Safe in threads, and in a process that was forked after the first message.

    ``unheard`` counts, per type, the events that nobody listened to, as far as the broker says so.
    """

    def __init__(
        self, connect: Callable[[], Connection], exchange: Exchange, when_unheard: Unheard = Unheard.LOG
    ) -> None:
        self._connect = connect
        self._exchange = exchange
        self._when_unheard = when_unheard
        self._lines = Lines(self._new_line)
        self._counting = threading.Lock()
        self.unheard: Counter[str] = Counter()
        forks.guard(self)

    def announce(self, envelopes: Iterable[Envelope]) -> None:
        """
        Broadcast events. On return the broker holds each of them for every queue that is bound to its type.

        Raises `PublishError` when it does not, or does not say so in time; ``confirmed`` and ``unconfirmed`` tell
        which, and announcing the unconfirmed ones again is safe. Raises `EventTooLargeError` before anything was
        sent. Whether an event that nobody listens to is an error, ``choreo_unheard`` decides.
        """
        envelopes = list(envelopes)
        posts = self._deliver([self.message_for(envelope) for envelope in envelopes])
        _check(posts, envelopes)
        unheard = [post for post in posts if post.heard is False]
        if unheard and self._when_unheard is Unheard.ERROR:
            types = sorted({post.message.routing_key for post in unheard})
            raise PublishError(
                f"nobody listens to {', '.join(types)}. Start a service that does, or set choreo_unheard to 'log'.",
                confirmed=[envelope for envelope, post in zip(envelopes, posts, strict=True) if post.heard],
                unconfirmed=[envelope for envelope, post in zip(envelopes, posts, strict=True) if not post.heard],
            )

    def message_for(self, envelope: Envelope) -> Message:
        """The message that announces an event. Raises `EventTooLargeError`."""
        try:
            message = Message.carrying(envelope, exchange=self._exchange.name, routing_key=envelope.type)
        except RecursionError:
            message = None
        # Most events do not have so many brackets at all.
        if message is None or (
            message.body.count(b"[") + message.body.count(b"{") > MOST_NESTED and is_too_deep(envelope.to_wire())
        ):
            raise EventTooLargeError(
                f"the data of {envelope} is nested more than {MOST_NESTED} times: not everybody could read that. "
                f"Announce it as a text, or flatter.",
                unconfirmed=[envelope],
            )
        if len(message.body) > MAX_EVENT_BYTES:
            raise EventTooLargeError(
                f"{envelope} is {len(message.body):,} bytes, more than {MAX_EVENT_BYTES:,}. Keep the blob elsewhere "
                f"and announce where it is.",
                unconfirmed=[envelope],
            )
        return message

    def send(self, messages: Iterable[Message]) -> None:
        """Send messages. Raises `PublishError` unless the broker confirms every one."""
        messages = list(messages)
        _check(self._deliver(messages), messages)

    def note_unheard(self, messages: Iterable[Message]) -> None:
        """Count events that reached nobody, and say so as ``choreo_unheard`` wants it."""
        for message in messages:
            kind = message.routing_key
            with self._counting:
                self.unheard[kind] += 1
                first = self.unheard[kind] == 1
            if first and self._when_unheard is not Unheard.IGNORE:
                logger.info("nobody listens to %s yet; this is said once (choreo_unheard)", kind)

    def close(self) -> None:
        """Drop the connections that are not in use. Publishing again makes new ones."""
        self._lines.close()

    def after_fork(self) -> None:
        # A thread that does not exist here may have held it.
        self._counting = threading.Lock()

    def _deliver(self, messages: Sequence[Message]) -> list[Post]:
        posts = [Post(message) for message in messages]
        self._attempt(posts)
        self.note_unheard(post.message for post in posts if post.heard is False and not post.to_one_queue)
        return posts

    def _attempt(self, posts: Sequence[Post]) -> None:
        """Send until each is confirmed or refused. What may have been sent before has the same ids."""
        for attempt, pause in enumerate(PAUSES, start=1):
            posts = [post for post in posts if post.pending]
            if not posts:
                return
            if pause:  # sleeping for no time at all takes 60 µs
                time.sleep(pause)
            line: Line | None = None
            try:
                with self._lines.one() as line:
                    line.send(posts)
            except Exception as error:  # brokers' clients raise dozens of kinds, and each means the same here
                if line is None:
                    _refuse(posts, str(error))
                elif line.concerns_one(error):
                    for post in posts:
                        self._attempt([post])
                elif attempt == len(PAUSES) or not line.is_passing(error):
                    _refuse(posts, line.why(error))
                else:
                    # What broke this line, most likely broke those that wait as well; there are more than attempts.
                    self._lines.close()

    def _new_line(self) -> Line:
        connection = self._connect()
        if isinstance(connection.transport, Transport):
            return RedisLine(connection, self._exchange)
        kind = RabbitLine if connection.transport.driver_type == "amqp" else VirtualLine
        return kind(connection, self._exchange)


def _check(posts: Sequence[Post], things: Sequence[Any]) -> None:
    """Raise `PublishError` unless all are confirmed. ``things`` are what the caller knows the posts as."""
    failed = [post for post in posts if not post.confirmed]
    if not failed:
        return
    reasons = {post.refused: str(post) for post in reversed(failed)}
    what = "; ".join(f"{example!r}: {reason}" for reason, example in reversed(reasons.items()))
    count = f"{len(failed)} of {len(posts)} messages, such as " if len(posts) > 1 else ""
    raise PublishError(
        f"the broker did not take {count}{what}",
        confirmed=[thing for thing, post in zip(things, posts, strict=True) if post.confirmed],
        unconfirmed=[thing for thing, post in zip(things, posts, strict=True) if not post.confirmed],
    )


def _refuse(posts: Sequence[Post], reason: str) -> None:
    for post in posts:
        if post.pending:
            post.refused = reason
