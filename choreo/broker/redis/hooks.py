"""Hooks: callbacks with which a program takes part in a channel's consuming."""

from collections.abc import Sequence

from choreo.broker.redis.taken import Taken


class ConsumerHooks:
    """
    Called by a consuming channel. The methods of this class do nothing; a subclass overrides some of them.

    One object serves one channel. An object whose methods do nothing may serve any number of channels.
    """

    def before_take(self) -> int:
        """Called before the channel asks Redis for messages. `after_take` gets the returned number."""
        return 0

    def after_take(self, asked: int) -> None:
        """Called after Redis has answered, or the read has failed. Until then messages are delivered, if any came."""

    def before_delivery(self, taken: Taken, following: Sequence[Taken]) -> None:
        """Called before a message is delivered. ``following``: the messages that are delivered after it, in order."""

    def deliver(self, taken: Taken) -> bool:  # noqa: ARG002
        """Deliver a message in place of the channel. True if the message was delivered."""
        return False

    def after_slice(self) -> None:
        """Called when deliveries pause, so that the event loop gets its turn."""

    def acks(self, tag: str) -> bool:  # noqa: ARG002
        """True if the hooks ack this delivery, so that the channel must not. Called once per ack."""
        return False

    def settle(self) -> None:
        """Called at the end of consuming, before the channel gives back its unacked messages."""

    def close(self) -> None:
        """Called when the channel closes its connections."""


#: The hooks of a channel that has none.
NO_HOOKS = ConsumerHooks()
