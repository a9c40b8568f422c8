"""What a consumer of the Redis transport was delivered and has not acked yet."""

from typing import Any

from kombu.transport import virtual

from choreo.broker.redis.ownership import Tag
from choreo.broker.redis.receipt import CLAIM


class QoS(virtual.QoS):
    """What was delivered and not acked yet. The records themselves are in Redis before anything is delivered."""

    def append(self, message: Any, delivery_tag: str) -> None:
        message.delivery_tag = tag = Tag(delivery_tag)
        super().append(message, tag)

    def ack(self, delivery_tag: str) -> None:
        message = self._delivered.get(delivery_tag)
        # What was claimed when it was taken is acked by its commit, and done before should it come again.
        self.channel.ack_later(delivery_tag, urgent=message is None or CLAIM not in message.delivery_info)
        super().ack(delivery_tag)
        if self.channel.closed:
            # It takes no more, and its owner waits until nobody holds the tags of what it took: see `Ownership.retire`.
            self._flush()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self.channel.requeue(delivery_tag)
            super().ack(delivery_tag)
        else:
            self.ack(delivery_tag)

    def unacked(self) -> list[Tag]:
        """The tags of what was delivered and neither acked nor rejected."""
        self._flush()
        return list(self._delivered)

    def restore_unacked(self) -> list[Any]:
        """Return everything unacked, as AMQP's basic.recover does."""
        self.channel.give_back(self.unacked(), counted=False)
        self._delivered.clear()
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:  # noqa: ARG002  # kombu's signature
        """At the end of the channel or the process."""
        self._on_collect.cancel()
        self.channel.settle()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a consumer's own thread looks after dead consumers."""
