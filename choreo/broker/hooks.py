"""Hooks: callbacks with which a program takes part in the consuming of a channel, on every broker."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from choreo.broker.taken import Taken

T = TypeVar("T", bound=Taken)


class DeliveryHooks(Generic[T]):
    """
    Called by a consuming channel. The methods of this class do nothing; a subclass overrides some of them.

    One object serves one channel. An object whose methods do nothing may serve any number of channels.
    """

    def before_delivery(self, taken: T, following: Sequence[T]) -> None:
        """Called before a message is delivered. ``following``: the messages that are delivered after it, in order."""

    def deliver(self, taken: T) -> bool:  # noqa: ARG002
        """Deliver a message in place of the channel. True if the message was delivered."""
        return False

    def after_slice(self) -> None:
        """Called when deliveries pause, so that the event loop gets its turn."""

    def acks(self, tag: Any) -> bool:  # noqa: ARG002
        """True if the hooks ack this delivery, so that the channel must not. Called once per ack."""
        return False

    def settle(self) -> None:
        """Called at the end of consuming, before the channel gives back its unacked messages."""

    def close(self) -> None:
        """Called when the channel closes its connections."""
