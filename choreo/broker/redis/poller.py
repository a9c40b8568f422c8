"""The poller of one connection: kombu's, for channels that take several messages at once."""

from collections.abc import Callable
from typing import Any

from kombu.transport.redis import MultiChannelPoller


class Poller(MultiChannelPoller):
    """
    Kombu's poller, for channels that take several messages at once.

    With an event loop, a channel delivers its taken messages one after the other.
    Without one (`drain_events`), each call delivers one message, as callers expect.
    """

    #: The event loop, or None, and the callback that it calls when an answer can be read.
    hub: Any = None
    reader: Callable[[int], Any] | None = None

    @property
    def fds(self) -> dict[int, Any]:
        """
        The sockets that the event loop does not watch yet.

        Before each wait kombu adds all sockets to the loop, and a socket that is watched already costs two system
        calls. A pool of processes waits three times for each task.
        """
        every: dict[int, Any] = super().fds
        if self.hub is None:
            return every
        watched = self.hub.readers
        return {fd: channel for fd, channel in every.items() if (watched.get(fd) or (None,))[0] != self.reader}

    def on_poll_start(self) -> None:
        """Let each channel send its acks before kombu lets it ask for messages."""
        for channel in list(self._channels):
            channel.before_poll()
        super().on_poll_start()

    def _register_BRPOP(self, channel: Any) -> None:  # noqa: N802 - kombu's name
        # Kombu calls this when a channel may ask for messages.
        if not (channel.is_asking or channel.is_resting or channel.has_enough):
            super()._register_BRPOP(channel)

    def get(self, callback: Callable[..., Any], timeout: float | None = None) -> None:
        """Deliver a message that was taken before, if there is one. Else wait for messages, as kombu does."""
        try:
            for channel in list(self._channels):
                if channel.deliver_one():
                    return
            super().get(callback, timeout=timeout)
        finally:
            self._after_get()

    def _after_get(self) -> None:
        # The next call may come much later, so acks that were made during the delivery are sent now.
        for channel in list(self._channels):
            if not channel.has_arrived:
                channel.flush_acks()

    def maybe_restore_messages(self) -> None:
        """Do nothing: the thread of `Ownership` returns the messages of dead consumers."""
