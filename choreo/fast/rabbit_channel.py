"""The fast lane of one consuming channel of RabbitMQ."""

import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from choreo.broker import workload
from choreo.broker.rabbitmq.acks import Acks
from choreo.broker.rabbitmq.consuming import ConsumingChannel
from choreo.broker.rabbitmq.hooks import ConsumerHooks
from choreo.broker.rabbitmq.taken import Taken
from choreo.fast.claim_group import ClaimGroup
from choreo.fast.commit_group import CommitGroup

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Place:
    """The place of one delivery: its tag on its channel, the channel's answers, and the commits that it may join."""

    group: CommitGroup
    tag: int
    acks: Acks


class RabbitLane(ConsumerHooks):
    """
    Takes the messages of handlers' queues, claims and commits several together, and shortcuts to the handlers.

    It lives as long as its channel. ``runtime`` is the service's, ``direct`` are the handlers of `Lane.direct`. In a
    worker of the prefork pool, whose children handle the messages, nothing is done together.
    """

    def __init__(self, channel: ConsumingChannel, runtime: Any, direct: Container[str], *, in_process: bool) -> None:
        self._channel, self._in_process = channel, in_process
        #: Queue → its handler's shortcut, and its handler's task.
        self._shortcuts: dict[str, Callable[[Any, Any], bool]] = {}
        self._tasks: dict[str, Any] = {}
        self._commits = CommitGroup(runtime, lambda: channel.arrived or workload.unstarted_count())
        self._claims = ClaimGroup(runtime.store, self._tasks, direct, self._delivery_of, self._commits)

    def serve(self, queue: str, task: Any, shortcut: Callable[[Any, Any], bool] | None) -> None:
        """
        Take the messages of this queue, whose handler has this Celery task.

        ``shortcut`` handles them; None: they go to the queue's consumer.
        """
        self._channel.serve(queue)
        self._tasks[queue] = task
        self._shortcuts.pop(queue, None)
        if shortcut is not None:
            self._shortcuts[queue] = shortcut

    def place_of(self, tag: int) -> Place | None:
        """The place of a delivery of this channel; None if it is handled in another process."""
        return Place(self._commits, tag, self._channel.acks) if self._in_process else None

    def _delivery_of(self, task: Any, taken: Taken) -> Any:
        return task.delivery_of(self._channel, taken, taken.event)

    def before_delivery(self, taken: Taken, following: Sequence[Taken]) -> None:
        """Claim this message and those behind it together."""
        if self._in_process:
            try:
                self._claims.begin(taken, following)
            except Exception:  # one message that fails here must not end every worker of the service
                logger.exception("%s: claiming together failed, so each message is claimed in its turn", taken.queue)

    def deliver(self, taken: Taken) -> bool:
        """Deliver a message by its handler's shortcut. False if there is none, or it leaves this message."""
        shortcut = self._shortcuts.get(taken.queue)
        return shortcut is not None and shortcut(self._channel, taken)

    def after_slice(self) -> None:
        """Send the commits that wait."""
        self._commits.flush(wait=False)

    def acks(self, tag: int) -> bool:
        """True if a commit acks this delivery."""
        return self._commits.decides(tag)

    def returned(self, back: Sequence[Taken]) -> None:
        """Give up the claims of messages that go back."""
        self._claims.release(back)

    def settle(self) -> None:
        """Send all commits, and publish what they announced."""
        self._commits.settle()

    def close(self) -> None:
        """The channel is gone: send all commits, whose messages come again and are done."""
        self._commits.close()


def place_of(message: Any) -> Place | None:
    """The place of a delivered message; None unless a channel with a `RabbitLane` has delivered it."""
    hooks = getattr(message.channel, "hooks", None)
    return hooks.place_of(message.delivery_tag) if isinstance(hooks, RabbitLane) else None
