"""The unacked messages of a consumer on Redis, in kombu's terms.

*Prefetch.* The prefetch limits the unacked messages of all queues together. Two kinds of queues have a limit of their
own, so that they leave room for the others:

- The program may hold messages back for a while: in a Celery worker, those that wait for the rate of their handler.
  They do not count, but their queue gets no more while it has as many unacked messages as the prefetch.
- The queue of a handler is slow if one of its messages has been unacked for `SLOW` seconds. It gets no more while it
  has two for each place of the pool (`at_a_time`): one that is handled, and the next one. Where several are handled
  at once (`at_once`), it is so many times two.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from kombu.transport import virtual

from choreo.broker.incoming import UNCOUNTED, source_of
from choreo.broker.redis.ownership import Tag
from choreo.broker.redis.receipt import CERTAIN_UNTIL, CLAIM, machine_time
from choreo.broker.redis.taking import CERTAIN

#: Seconds. They are counted from the request for a message, which may wait for a second until there is one.
SLOW = 2.0
#: Seconds until a slow queue is asked again: less than a message of it takes.
SOON_SECONDS = 0.1
#: The most unacked messages among which slow queues are looked for.
MOST_DELIVERED = 1000


class QoS(virtual.QoS):
    """
    The messages that were delivered and are not acked yet.

    Unlike kombu's, it writes no records: take.lua has made them in Redis before the delivery.
    """

    #: Callback: returns queue → how many of its unacked messages the program holds back; None: it holds back none.
    held: Callable[[], Mapping[str, int]] | None = None
    #: Callback: returns the seconds until the program goes on with one of them.
    held_for: Callable[[], float] = staticmethod(partial(float, "inf"))
    #: Queue → how many of its messages are handled at once, if not one.
    at_once: Mapping[str, int] = MappingProxyType({})
    #: True if a queue was slow in the last answer of `room`.
    _has_slow = False

    def can_consume(self) -> bool:
        """True if a message may be taken. Slow queues are left out when it is: see `room`."""
        held = self.held and self.held()
        if not held:
            return bool(super().can_consume())
        # A message that was taken must also be delivered.
        return self._free(held) != 0 and (
            self.channel.has_arrived or any(self.room().get(queue, 1) for queue in self.channel.active_queues)
        )

    def can_consume_max_estimate(self) -> int | None:
        """How many messages may be taken; None: there is no limit."""
        held = self.held and self.held()
        free: int | None = self._free(held) if held else super().can_consume_max_estimate()
        return free

    def room(self) -> dict[str, int]:
        """Queue → how many messages may be taken from it, for the queues that have a limit of their own."""
        held = (self.held and self.held()) or {}
        slow_before = machine_time() - SLOW + float(self.channel.consumer_timeout) * CERTAIN
        self._has_slow = False
        if not self.prefetch_count or not (held or self._may_be_slow(slow_before)):
            return {}
        counts, slow = Counter[str](), set[str]()
        for tag, message in tuple(self._delivered.items()):
            if tag not in self._dirty:
                queue = source_of(message)
                counts[queue] += 1
                if _certain_until(message) < slow_before and _is_run(message, queue):
                    slow.add(queue)
        self._has_slow = not slow.issubset(held)
        places = 2 * int(self.channel.at_a_time)
        limits = {queue: places * self.at_once.get(queue, 1) for queue in slow}
        limits |= dict.fromkeys(held, int(self.prefetch_count))
        counts.update(taken.queue for taken in self.channel.arrived)
        return {queue: max(min(limit, self.prefetch_count) - counts[queue], 0) for queue, limit in limits.items()}

    def _may_be_slow(self, slow_before: float) -> bool:
        # The first message is the oldest. With thousands of countdowns it would take too long to look at all of them.
        oldest = next(iter(self._delivered.values()), None)
        return oldest is not None and len(self._delivered) <= MOST_DELIVERED and _certain_until(oldest) < slow_before

    def until_room(self) -> float:
        """The seconds after which a queue that was full in the last answer of `room` may have room again."""
        return min(self.held_for(), SOON_SECONDS if self._has_slow else math.inf)

    def _free(self, held: Mapping[str, int]) -> int | None:
        if not self.prefetch_count:
            return None
        unacked = len(self._delivered) - len(self._dirty)
        return max(int(self.prefetch_count) - unacked + sum(held.values()), 0)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivered message. Its tag becomes a `Tag`, so that `Ownership.retire` can watch it."""
        message.delivery_tag = tag = Tag(delivery_tag)
        super().append(message, tag)

    def ack(self, delivery_tag: str) -> None:
        """Ack a message: with the channel's next take, or by the thread of its `Ownership` if the channel is closed."""
        message = self._delivered.get(delivery_tag)
        # The commit acks a message that was claimed when it was taken, so this ack is not urgent. If the message comes
        # again, its unit is finished.
        self.channel.ack_later(delivery_tag, urgent=message is None or CLAIM not in message.delivery_info)
        super().ack(delivery_tag)
        if self.channel.closed:
            # Kombu drops acked tags at the next delivery, and a closed channel has none. A retired owner waits until
            # the tags are dropped: see `Ownership.retire`.
            self._flush()

    def settled(self, delivery_tag: str) -> None:
        """Note that a commit has acked a message, so that no ack need be sent."""
        super().ack(delivery_tag)
        if self.channel.closed:
            # As in `ack`.
            self._flush()

    def forget(self, delivery_tag: str) -> None:
        """Forget a message that is delivered anew."""
        self._delivered.pop(delivery_tag, None)
        self._dirty.discard(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool | str = False) -> None:
        """
        Return a message to the front of its queue, as a failed delivery; without ``requeue``, ack it.

        With `UNCOUNTED` as ``requeue`` it is no failed delivery.
        """
        if requeue:
            self.channel.give_back([delivery_tag], counted=requeue != UNCOUNTED)
            super().ack(delivery_tag)
            if self.channel.closed:
                # As in `ack`.
                self._flush()
        else:
            self.ack(delivery_tag)

    def unacked(self) -> list[Tag]:
        """The tags of the messages that were delivered, and neither acked nor rejected."""
        self._flush()
        return list(self._delivered)

    def restore_unacked(self) -> list[Any]:
        """Return all unacked messages to their queues, as AMQP's basic.recover does."""
        self.channel.give_back(self.unacked(), counted=False)
        self._delivered.clear()
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:  # noqa: ARG002  # kombu's signature
        """Return all unacked messages, at the end of the channel or the process."""
        self._on_collect.cancel()
        self.channel.settle()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the thread of `Ownership` returns the messages of dead consumers."""


def _certain_until(message: Any) -> float:
    """A time that is the same for all messages of one request, and later for those of a later one."""
    return float(message.delivery_info.get(CERTAIN_UNTIL, math.inf))


def _is_run(message: Any, queue: str) -> bool:
    """True if the message is a run of the queue's own handler. Ordinary tasks may wait for a countdown or a batch."""
    task = (message.headers or {}).get("task")
    return isinstance(task, str) and queue.endswith(task)
