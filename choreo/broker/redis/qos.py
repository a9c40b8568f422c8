"""The unacked messages of a consumer on Redis, in kombu's terms.

*Prefetch.* The prefetch limits the unacked messages of all queues together. Messages that the program holds back for a
while (in a Celery worker: those that wait for the rate of their handler) do not count, or one such queue would hold up
all others. Instead a queue with such messages gets no more while it has as many unacked messages as the prefetch.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kombu.transport import virtual

from choreo.broker.redis.ownership import Tag
from choreo.broker.redis.receipt import CLAIM


class QoS(virtual.QoS):
    """
    The messages that were delivered and are not acked yet.

    Unlike kombu's, it writes no records: take.lua has made them in Redis before the delivery.
    """

    #: Callback: returns queue → how many of its unacked messages the program holds back; None: it holds back none.
    held: Callable[[], Mapping[str, int]] | None = None
    #: Callback: returns the seconds until the program goes on with one of them.
    held_for: Callable[[], float] = staticmethod(partial(float, "inf"))

    def can_consume(self) -> bool:
        """True if a message may be taken from any queue."""
        if not (held := self.held and self.held()):
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
        """Queue → how many messages may be taken from it, for the queues with messages that the program holds back."""
        held = self.held and self.held()
        if not held or not self.prefetch_count:
            return {}
        unacked = [message for tag, message in tuple(self._delivered.items()) if tag not in self._dirty]
        counts = Counter(message.delivery_info.get("routing_key") for message in unacked)
        counts.update(taken.queue for taken in self.channel.arrived)
        return {queue: max(self.prefetch_count - counts[queue], 0) for queue in held}

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

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Return a message to the front of its queue, as a failed delivery; without ``requeue``, ack it."""
        if requeue:
            self.channel.requeue(delivery_tag)
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
