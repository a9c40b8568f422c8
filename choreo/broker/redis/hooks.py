"""The hooks of a channel on Redis. `choreo.broker.hooks` has those that it shares with the one on RabbitMQ."""

from choreo.broker.hooks import DeliveryHooks
from choreo.broker.redis.taken import Taken


class ConsumerHooks(DeliveryHooks[Taken]):
    """Called by a consuming channel on Redis, which asks for its messages."""

    def before_take(self) -> int:
        """Called before the channel asks Redis for messages. `after_take` gets the returned number."""
        return 0

    def after_take(self, asked: int) -> None:
        """Called after Redis has answered, or the read has failed. Until then messages are delivered, if any came."""


#: The hooks of a channel that has none.
NO_HOOKS = ConsumerHooks()
