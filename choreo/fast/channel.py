"""The fast lane of one consuming channel."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from choreo.broker import workload
from choreo.broker.redis.consuming import ConsumingChannel
from choreo.broker.redis.hooks import ConsumerHooks
from choreo.broker.redis.taken import Taken
from choreo.fast.ahead import Ahead
from choreo.fast.commits import Commits
from choreo.fast.coroutines import Coroutines
from choreo.redis_client.wire import Wire

logger = logging.getLogger(__name__)

#: Callback: gets a channel and a message that it has taken. Fast path; returns True if it handled the message.
TakenHandler = Callable[[Any, Taken], bool]


class ChannelLane(ConsumerHooks):
    """
    Sends commits ahead, asks about parts of joins ahead, and takes shortcuts: for one channel with an event loop.

    It lives as long as its channel, which ends with the connection. See `ConsumerHooks` for when each method is called.
    """

    def __init__(self, channel: ConsumingChannel, coroutines: Coroutines | None = None) -> None:
        """``coroutines`` are the runs of ``async def`` handlers, whose commits come in bursts."""
        self._channel, self._coroutines = channel, coroutines
        self._commits: Commits | None = None
        #: Both by the queue's name.
        self._aheads: dict[str, Ahead] = {}
        self._shortcuts: dict[str, TakenHandler] = {}

    @property
    def commits(self) -> Commits:
        """The commits that this channel's consumer sends ahead. They are sent over a connection of their own."""
        if self._commits is None:
            channel = self._channel
            wire = Wire(lambda: channel.pool)
            self._commits = Commits(wire, channel.own, self._has_more)
        return self._commits

    def _has_more(self) -> bool:
        """True if more commits are likely to follow at once."""
        jobs = self._coroutines is not None and self._coroutines.has_jobs
        return jobs or bool(self._channel.arrived) or workload.unstarted_count() > 0

    def serve(self, queue: str, ahead: Ahead | None, shortcut: TakenHandler | None) -> None:
        """
        Set how messages of this queue are delivered, in place of an earlier call's.

        ``ahead`` asks ahead about parts of joins, ``shortcut`` handles messages; None: not for this queue.
        """
        self._aheads.pop(queue, None)
        self._shortcuts.pop(queue, None)
        if ahead is not None:
            self._aheads[queue] = ahead
        if shortcut is not None:
            self._shortcuts[queue] = shortcut

    def before_take(self) -> int:
        """The number of commands of commits that were sent until now."""
        return self._commits.sent if self._commits is not None else 0

    def after_take(self, asked: int) -> None:
        """Read the answers to the commands that were sent before the channel asked Redis: they have come by now."""
        if self._commits is not None:
            self._commits.settle(wait=False, sent_before=asked)

    def before_delivery(self, taken: Taken, following: Sequence[Taken]) -> None:
        """Ask ahead about this message and those behind it, if its handler is a join."""
        ahead = self._aheads.get(taken.queue)
        if ahead is None:
            return
        try:
            ahead.begin(self._channel, self.commits, taken, following)
        except Exception:  # one message that fails here must not end every worker of the service
            logger.exception("%s: asking ahead failed, so its parts are asked about one by one", taken.queue)

    def deliver(self, taken: Taken) -> bool:
        """Deliver a message by its handler's shortcut. False if there is none, or it leaves this message."""
        shortcut = self._shortcuts.get(taken.queue)
        return shortcut is not None and shortcut(self._channel, taken)

    def after_slice(self) -> None:
        """Send the commits that wait, and let messages collect for a moment where they come in quick succession."""
        if self._commits is not None:
            self._commits.flush(wait=False)
        # With shortcuts the worker handles messages itself, or hands several to a child at once. A pool of threads gets
        # each message as soon as it comes.
        if self._shortcuts:
            self._channel.rest_in_a_rush()

    def acks(self, tag: str) -> bool:
        """True if a commit that was sent ahead acks this delivery."""
        return self._commits is not None and self._commits.decides(tag)

    def settle(self) -> None:
        """Send all commits, and wait for their answers."""
        if self._commits is not None:
            self._commits.settle()

    def close(self) -> None:
        """Wait for the answers to all commits, and close their connection."""
        # The object is kept: handlers whose commits it has sent may still run, and Celery acks after them. See `acks`.
        if self._commits is not None:
            self._commits.close()


def commits_of(channel: Any) -> Commits | None:
    """The commits of this channel; None for a channel that has no fast lane."""
    hooks = getattr(channel, "hooks", None)
    return hooks.commits if isinstance(hooks, ChannelLane) else None
