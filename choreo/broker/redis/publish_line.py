"""Publishing on choreo's Redis transport: up to `MOST_UNANSWERED` messages are sent, then the line waits for answers.

Each message is one script call, which puts copies into all queues or none, and answers how many. It bypasses kombu's
producer, which takes as much time for each message as Redis does.
"""

import os
from collections.abc import Sequence
from typing import Any

from kombu import Connection, Exchange
from redis.exceptions import NoScriptError, ResponseError

from choreo.broker.lines import Post, VirtualLine, ensure_connected
from choreo.broker.redis import scripts
from choreo.broker.redis.packing import head_of_event, tail_of_copy
from choreo.redis_client.refusals import explained, is_outage
from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Argument, pack

#: The most messages that are sent before their answers are read.
MOST_UNANSWERED = 64

#: A script, its keys and its arguments.
Call = tuple[Script, list[Argument], list[Argument]]


class RedisLine(VirtualLine):
    """A line to Redis. See `choreo.broker.lines.Line`."""

    def __init__(self, connection: Connection, exchange: Exchange) -> None:
        super().__init__(connection, exchange)
        self._channel: Any = None

    def send(self, posts: Sequence[Post]) -> None:
        """Send all posts, `MOST_UNANSWERED` at a time. A post that the server refuses is marked; others are sent."""
        if self._channel is None:
            ensure_connected(self._connection)
            self._channel = self._connection.channel()
        for start in range(0, len(posts), MOST_UNANSWERED):
            self._send(posts[start : start + MOST_UNANSWERED])

    def _send(self, posts: Sequence[Post]) -> None:
        wire = self._channel.wire
        calls = [self._call(post) for post in posts]
        wire.push(b"".join([pack(wire.evalsha(*call)) for call in calls]), len(calls))
        unknown: list[tuple[Post, Call]] = []
        for post, call in zip(posts, calls, strict=True):
            try:
                self._confirm(post, wire.pull())
            except NoScriptError:
                unknown.append((post, call))
            except ResponseError as error:
                self._refuse(post, error)
        for post, call in unknown:  # `Wire.call` loads a script that the server does not know
            try:
                self._confirm(post, wire.call(*call))
            except ResponseError as error:
                self._refuse(post, error)

    def _refuse(self, post: Post, error: ResponseError) -> None:
        post.refused, post.is_outage = self.why(error), is_outage(error)

    def why(self, error: Exception) -> str:
        """The error as a text for people, with the remedy for an error of the server."""
        text = super().why(error)
        return text if text != str(error) else explained(error)

    def _confirm(self, post: Post, queues: int) -> None:
        post.heard, post.confirmed = queues > 0, True

    def _call(self, post: Post) -> Call:
        channel, message = self._channel, post.message
        keys, prefix, tag = channel.keys, channel.global_keyprefix, os.urandom(16).hex()
        head, priority = head_of_event(message), channel._q_for_pri("", 0)
        if post.to_one_queue:
            queue = message.routing_key
            return scripts.PUT, [prefix + queue + priority, keys.wake_up(queue)], [head + tail_of_copy(queue, tag), 0]
        exchange = message.exchange
        names: list[Argument] = [prefix + channel.keyprefix_queue % exchange, keys.routes(exchange)]
        args = [message.routing_key, channel.sep, prefix, priority, keys.wake_up(""), head, tag]
        return scripts.BROADCAST, names, args
