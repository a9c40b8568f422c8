"""The publisher: sends events and messages, and returns once the broker has confirmed them."""

import asyncio
import logging
import reprlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kombu import Connection, Exchange

from choreo import forks
from choreo.broker.announcing import lineage_here
from choreo.broker.collector import Collector
from choreo.broker.lines import Line, Lines, Post, VirtualLine
from choreo.broker.rabbitmq.confirms import RabbitLine
from choreo.broker.redis.publish_line import RedisLine
from choreo.broker.redis.transport import Transport
from choreo.declare.settings import Unheard
from choreo.errors import EventTooLargeError, InvalidEventError, PublishError, note_unconfirmed
from choreo.events.envelope import Envelope
from choreo.events.message import MOST_NESTED, Message, is_too_deep, strict
from choreo.events.naming import OWN_TYPES
from choreo.events.signing import Signing
from choreo.printing import one_line

logger = logging.getLogger(__name__)

#: The largest event. The broker keeps a copy of it per queue, and every worker reads it whole: announce the place of a
#: blob, and not the blob.
MAX_EVENT_BYTES = 256 * 1024
#: Seconds to wait before each attempt; the next one is made when a connection breaks or cannot be made.
PAUSE_SECONDS = (0.0, 0.0, 0.2, 0.5)
#: The events of which a coroutine makes messages before it lets others run: a millisecond's work.
EVENTS_AT_A_TIME = 50


class Publisher:
    """
    Publishes over a pool of lines. Safe in threads, and after a fork.

    ``unheard`` counts, per type, the events to which no queue was bound. It needs a broker that says so: Redis and
    RabbitMQ do, the memory transport does not. ``place`` is a callback: it returns the broker and the namespace, for
    the warning of such an event. ``plain`` is an exchange of RabbitMQ that gets each event as well, as a CloudEvent in
    structured mode.
    """

    #: Callback: gets the type of each event that reached no queue. Set by whoever makes the publisher.
    report_unheard: Callable[[str], object] | None = None
    #: Callback: gets the types of the events that were announced. Set by whoever makes the publisher.
    note_types: Callable[[Iterable[str]], object] | None = None
    #: Signs events, and seals what goes to a single queue. None: nothing is signed. Set by whoever makes the publisher.
    signing: Signing | None = None

    def __init__(
        self,
        connect: Callable[[], Connection],
        exchange: Exchange,
        when_unheard: Unheard = Unheard.LOG,
        place: Callable[[], str] = lambda: "this broker",
        plain: Exchange | None = None,
    ) -> None:
        self._connect = connect
        self._exchange = exchange
        self._when_unheard = when_unheard
        self._place = place
        self._plain = plain
        self._lines = Lines(self._new_line)
        self._collector = Collector(lambda messages: self._publish(messages))
        self._counting = threading.Lock()
        self.unheard: Counter[str] = Counter()
        forks.guard(self)

    def announce(self, envelopes: Iterable[Envelope]) -> list[Envelope]:
        """
        Broadcast events. On return the broker holds each of them for every queue that is bound to its type.

        Returns the events as they were sent.

        Raises `PublishError` unless the broker confirms all of them in time. Its ``confirmed`` and ``unconfirmed`` list
        the events, and announcing the unconfirmed ones again is safe. With ``choreo_unheard = "error"`` it is also
        raised for events to which no queue is bound. Before anything is sent, raises `EventTooLargeError` and
        `InvalidEventError`.
        """
        envelopes = list(envelopes)
        return self._announced(envelopes, self._publish([self.message_for(envelope) for envelope in envelopes]))

    async def aannounce(self, envelopes: Iterable[Envelope]) -> list[Envelope]:
        """
        Broadcast events as `announce` does, without blocking the event loop.

        One thread sends what waits, also that of other coroutines, as one batch, and each has its own result or error.
        If the await is cancelled, the events are not sent, or may have been: `choreo.unconfirmed` gets the latter from
        the error.
        """
        envelopes = list(envelopes)
        messages: list[Message] = []
        for start in range(0, len(envelopes), EVENTS_AT_A_TIME):
            if start:
                await asyncio.sleep(0)
            messages += [self.message_for(envelope) for envelope in envelopes[start : start + EVENTS_AT_A_TIME]]
        return self._announced(envelopes, await self._collected(messages, envelopes))

    async def _collected(self, messages: Sequence[Message], envelopes: Sequence[Envelope]) -> Sequence[Post]:
        if not messages:
            return []
        handover = self._collector.hand_over(messages)
        try:
            return await handover.posts
        except asyncio.CancelledError as error:
            if not self._collector.withdraw(handover):
                note_unconfirmed(error, envelopes)
            raise

    def _announced(self, envelopes: list[Envelope], posts: Sequence[Post]) -> list[Envelope]:
        """Judge the broker's answers. Raises `PublishError`."""
        _check(posts, envelopes)
        self.note_announced(envelopes)
        unheard = [post for post in posts if post.heard is False]
        if unheard and self._when_unheard is Unheard.ERROR:
            types = sorted({post.message.routing_key for post in unheard})
            raise PublishError(
                f"nobody listens to {', '.join(types)}. Start a service that does, or set choreo_unheard to 'log'. "
                f"The broker is {self._place()}.",
                confirmed=[envelope for envelope, post in zip(envelopes, posts, strict=True) if post.heard],
                unconfirmed=[envelope for envelope, post in zip(envelopes, posts, strict=True) if not post.heard],
            )
        return envelopes

    def stamped(self, envelope: Envelope) -> Envelope:
        """The event as it is sent later, by the schedule."""
        return envelope

    def note_announced(self, envelopes: Iterable[Envelope]) -> None:
        """Tell ``note_types`` of events that were announced outside of handlers."""
        if self.note_types is not None:
            self.note_types([envelope.type for envelope in envelopes])

    def message_for(self, envelope: Envelope) -> Message:
        """
        The message that announces an event.

        Raises `EventTooLargeError` if it is too large, or nested too deeply, and `InvalidEventError` for what
        JSON has not: NaN, an infinite number, or a text that cannot be written as UTF-8; and for an event that its
        source may not announce.
        """
        try:
            if self.signing is not None:
                envelope = self.signing.signed(envelope)
            message = Message.carrying(
                envelope,
                exchange=self._exchange.name,
                routing_key=envelope.type,
                lineage=lineage_here(),
                encode=strict,
            )
        except InvalidEventError:  # a `ValueError` that tells its fault
            raise
        except RecursionError:
            message = None
        except UnicodeEncodeError as error:
            raise InvalidEventError(
                f"{envelope.type}: {_faulty(envelope)} cannot be written as UTF-8, because it holds half a surrogate "
                f"pair. Replace such characters where the text comes from: text.encode(errors='replace').decode()."
            ) from error
        except (ValueError, TypeError) as error:  # an integer of more than 4300 digits, NaN, an infinite number
            raise InvalidEventError(f"{envelope}: {_culprit(envelope)} cannot be written as JSON: {error}") from error
        # Counting brackets is cheap; few events have so many that their depth must be measured.
        if message is None or (
            message.body.count(b"[") + message.body.count(b"{") > MOST_NESTED and is_too_deep(envelope.to_wire())
        ):
            raise EventTooLargeError(
                f"the data of {envelope} is nested more than {MOST_NESTED} times, which not every JSON parser "
                f"can read. Announce it as a text, or flatter.",
                unconfirmed=[envelope],
            )
        self._check_size(envelope, message)
        return message

    def _check_size(self, envelope: Envelope, message: Message) -> None:
        if len(message.body) > MAX_EVENT_BYTES:
            raise EventTooLargeError(
                f"{envelope} is {len(message.body):,} bytes, more than {MAX_EVENT_BYTES:,}. Keep the blob elsewhere "
                f"and announce where it is.",
                unconfirmed=[envelope],
            )

    def forward(self, envelope: Envelope) -> None:
        """
        Broadcast an event of another program, as a plain CloudEvent: each handler's queue reads it.

        Raises `PublishError` unless the broker confirms it in time, and `EventTooLargeError`.
        """
        message = Message.structured(envelope, exchange=self._exchange.name)
        self._check_size(envelope, message)
        self.send([message])

    def send(self, messages: Iterable[Message]) -> None:
        """Send messages. Raises `PublishError` unless the broker confirms every one; it names these very messages."""
        # The error names the caller's messages, by which it knows those that have left.
        messages = list(messages)
        _check(self._publish(list(map(self.sealed, messages))), messages)

    def sealed(self, message: Message) -> Message:
        """The message with a seal if it needs one: for what is sent by another way than `send`."""
        return message if self.signing is None else self.signing.sealed(message)

    def note_unheard(self, messages: Iterable[Message]) -> None:
        """
        Count events that reached no queue, and log the first of each type unless ``choreo_unheard`` is "ignore".

        Events that choreo itself announces (`OWN_TYPES`) are left out.
        """
        for message in messages:
            kind = message.routing_key
            if kind in OWN_TYPES:
                continue
            with self._counting:
                self.unheard[kind] += 1
                first = self.unheard[kind] == 1
            if self.report_unheard is not None:
                self.report_unheard(kind)
            if first and self._when_unheard is not Unheard.IGNORE:
                logger.warning(
                    "nobody listens to %s yet: no queue is bound to it on %s. Start a service that listens, or is this "
                    "the wrong broker or namespace? Logged once per type and process (choreo_unheard).",
                    one_line(kind),
                    self._place(),
                )

    def close(self) -> None:
        """Drop the lines that are not in use. Publishing again makes new ones."""
        self._lines.close()

    def after_fork(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        self._counting = threading.Lock()

    def _publish(self, messages: Sequence[Message]) -> list[Post]:
        posts = [Post(message) for message in messages]
        self._attempt(posts)
        self.note_unheard(post.message for post in posts if post.heard is False and not post.to_one_queue)
        return posts

    def _attempt(self, posts: Sequence[Post]) -> None:
        """Send until each post is confirmed or refused. A message that is sent twice keeps its id."""
        for attempt, pause in enumerate(PAUSE_SECONDS, start=1):
            posts = [post for post in posts if post.pending]
            if not posts:
                return
            if pause:  # time.sleep(0) takes 60 µs
                time.sleep(pause)
            line: Line | None = None
            try:
                with self._lines.one() as line:
                    line.send(posts)
            except Exception as error:  # the brokers' clients raise dozens of types
                if line is None:
                    _refuse(posts, str(error))
                elif line.concerns_one(error):
                    for post in posts:
                        self._attempt([post])
                elif attempt == len(PAUSE_SECONDS) or not line.is_passing(error):
                    _refuse(posts, line.why(error), is_outage=line.is_outage(error))
                else:
                    # The idle lines are most likely broken too, and there may be more of them than attempts.
                    self._lines.close()

    def _new_line(self) -> Line:
        connection = self._connect()
        if isinstance(connection.transport, Transport):
            return RedisLine(connection, self._exchange)
        if connection.transport.driver_type == "amqp":
            return RabbitLine(connection, self._exchange, self._plain)
        return VirtualLine(connection, self._exchange)


def _culprit(envelope: Envelope) -> str:
    """The name of the first field that cannot be written; "it" if that is no field."""
    for name, value in envelope.data.items():
        try:
            strict(value).encode()
        except (ValueError, TypeError):
            return name
    return "it"


def _faulty(envelope: Envelope) -> str:
    """The text in an event that cannot be written as UTF-8, and its place: ``data.customer.name = 'a\\ud800'``."""
    waiting: list[tuple[str, Any]] = [("", envelope.to_wire())]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str) and _is_faulty(value):
            return f"{place} = {reprlib.repr(value)}"
        if isinstance(value, dict):
            if names := [name for name in value if isinstance(name, str) and _is_faulty(name)]:
                return f"the name {reprlib.repr(names[0])} in {place}"
            waiting += [(f"{place}.{name}".lstrip("."), part) for name, part in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{place}[{number}]", part) for number, part in enumerate(value)]
    return "a text in it"


def _is_faulty(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _check(posts: Sequence[Post], things: Sequence[Any]) -> None:
    """Raise `PublishError` unless all posts are confirmed. ``things`` are the caller's objects, one per post."""
    failed = [post for post in posts if not post.confirmed]
    if not failed:
        return
    reasons = {post.refused: str(post) for post in reversed(failed)}
    examples = "; ".join(f"{example!r}: {reason}" for reason, example in reversed(reasons.items()))
    count = f"{len(failed)} of {len(posts)} messages, such as " if len(posts) > 1 else ""
    raise PublishError(
        f"the broker did not take {count}{examples}",
        confirmed=[thing for thing, post in zip(things, posts, strict=True) if post.confirmed],
        unconfirmed=[thing for thing, post in zip(things, posts, strict=True) if not post.confirmed],
        is_outage=any(post.is_outage for post in failed),
    )


def _refuse(posts: Sequence[Post], reason: str, *, is_outage: bool = True) -> None:
    for post in posts:
        if post.pending:
            post.refused, post.is_outage = reason, is_outage
