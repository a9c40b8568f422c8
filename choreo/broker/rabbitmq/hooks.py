"""The hooks of a channel on RabbitMQ. `choreo.broker.hooks` has those that it shares with the one on Redis."""

from collections.abc import Sequence

from choreo.broker.hooks import DeliveryHooks
from choreo.broker.rabbitmq.taken import Taken


class ConsumerHooks(DeliveryHooks[Taken]):
    """Called by a consuming channel on RabbitMQ, to which messages come without being asked for."""

    def returned(self, back: Sequence[Taken]) -> None:
        """
        Called before messages that were not delivered go back to their queues, or are lost with the connection.

        Some may be `begun`. Another worker can get them as soon as this returns.
        """


#: The hooks of a channel that has none.
NO_HOOKS = ConsumerHooks()
