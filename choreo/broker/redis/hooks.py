"""The places at which a program can take part in a channel's consuming."""

from collections.abc import Sequence

from choreo.broker.redis.taken import Taken


class ConsumerHooks:
    """
    Called by a consuming channel. These methods do nothing; a subclass overrides some of them.

    One object serves one channel. An object whose methods do nothing may serve all.
    """

    def asking(self) -> int:
        """Called before the channel asks Redis for messages. The answer is handed to `answered`."""
        return 0

    def answered(self, asked: int) -> None:
        """Called after Redis has answered, and after the messages in the answer were delivered."""

    def before_delivery(self, taken: Taken, following: Sequence[Taken]) -> None:
        """Called before a message is delivered. ``following`` are the taken messages behind it, in their order."""

    def deliver(self, taken: Taken) -> bool:  # noqa: ARG002
        """Deliver a message in place of the channel. True if that is done."""
        return False

    def after_slice(self) -> None:
        """Called when the channel has delivered for a while, and the event loop gets its turn."""

    def acks(self, tag: str) -> bool:  # noqa: ARG002
        """True if the hooks ack this delivery themselves, so that the channel must not. Asked once per ack."""
        return False

    def settle(self) -> None:
        """Called at the end of consuming, before the channel gives back its unacked messages."""

    def close(self) -> None:
        """Called when the channel closes its connections."""


#: The hooks of a channel that has none.
NO_HOOKS = ConsumerHooks()
