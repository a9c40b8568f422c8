"""The unacked messages of a consumer on Redis, in kombu's terms."""

from typing import Any

from kombu.transport import virtual

from choreo.broker.incoming import UNCOUNTED
from choreo.broker.redis.ownership import Tag
from choreo.broker.redis.receipt import CLAIM


class QoS(virtual.QoS):
    """
    The messages that were delivered and are not acked yet.

    Unlike kombu's, it writes no records: take.lua has made them in Redis before the delivery.
    """

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
