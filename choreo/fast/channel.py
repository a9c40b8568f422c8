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
from choreo.redis_client.wire import Wire

logger = logging.getLogger(__name__)

#: Fast path: handles a message that a channel has taken. True if it did.
Shortcut = Callable[[Any, Taken], bool]


class ChannelLane(ConsumerHooks):
    """Sends commits ahead, begins parts of joins together, and takes shortcuts, for one channel with an event loop."""

    def __init__(self, channel: ConsumingChannel) -> None:
        self._channel = channel
        self._commits: Commits | None = None
        #: By queue.
        self._aheads: dict[str, Ahead] = {}
        self._shortcuts: dict[str, Shortcut] = {}

    @property
    def commits(self) -> Commits:
        """The commits that this channel's consumer sends ahead."""
        if self._commits is None:
            channel = self._channel
            wire = Wire(lambda: channel.pool)
            self._commits = Commits(wire, channel.own, lambda: channel.arrived or workload.waiting())
        return self._commits

    def serve(self, queue: str, ahead: Ahead | None, shortcut: Shortcut | None) -> None:
        """Take part in the consuming of a queue. None: not in this way."""
        self._aheads.pop(queue, None)
        self._shortcuts.pop(queue, None)
        if ahead is not None:
            self._aheads[queue] = ahead
        if shortcut is not None:
            self._shortcuts[queue] = shortcut

    def asking(self) -> int:
        return self._commits.sent if self._commits is not None else 0

    def answered(self, asked: int) -> None:
        # Answers to commits that were sent before the question have come by now.
        if self._commits is not None:
            self._commits.settle(wait=False, sent_before=asked)

    def before_delivery(self, taken: Taken, following: Sequence[Taken]) -> None:
        ahead = self._aheads.get(taken.queue)
        if ahead is None:
            return
        try:
            ahead.begin(self._channel, self.commits, taken, following)
        except Exception:  # a message that cannot be begun together must not end every worker of the service
            logger.exception("%s cannot be begun together, but one by one", taken.queue)

    def deliver(self, taken: Taken) -> bool:
        shortcut = self._shortcuts.get(taken.queue)
        return shortcut is not None and shortcut(self._channel, taken)

    def after_slice(self) -> None:
        if self._commits is not None:
            self._commits.flush(wait=False)
        # A pool is better given each message as soon as it comes.
        if self._shortcuts:
            self._channel.rest_in_a_rush()

    def acks(self, tag: str) -> bool:
        return self._commits is not None and self._commits.decides(tag)

    def settle(self) -> None:
        if self._commits is not None:
            self._commits.settle()

    def close(self) -> None:
        # The commits object is kept: handlers may still run whose deliveries it has decided about. See `acks`.
        if self._commits is not None:
            self._commits.close()


def commits_of(channel: Any) -> Commits | None:
    """The commits of a channel in the fast lane; None for any other channel."""
    hooks = getattr(channel, "hooks", None)
    return hooks.commits if isinstance(hooks, ChannelLane) else None
