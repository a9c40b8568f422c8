"""The loop that waits for the channels of one connection: kombu's, with deliveries that wait for their turn."""

from collections.abc import Callable
from typing import Any

from kombu.transport.redis import MultiChannelPoller


class Poller(MultiChannelPoller):
    """
    Kombu's poller for channels that take several messages at once.

    With an event loop, a channel delivers what it took at once.
    Without one (`drain_events`), each call delivers one message, as callers expect.
    """

    #: The event loop, when there is one, and what it calls when an answer can be read.
    hub: Any = None
    reader: Callable[[int], Any] | None = None

    @property
    def fds(self) -> dict[int, Any]:
        """
        The sockets that the event loop does not watch yet.

        Kombu has it watch all of them before each wait, and each that it watches already costs two system calls. A pool
        of processes waits three times for each task.
        """
        every: dict[int, Any] = super().fds
        if self.hub is None:
            return every
        watched = self.hub.readers
        return {fd: channel for fd, channel in every.items() if (watched.get(fd) or (None,))[0] != self.reader}

    def on_poll_start(self) -> None:
        for channel in list(self._channels):
            channel.before_poll()
        super().on_poll_start()

    def _register_BRPOP(self, channel: Any) -> None:  # noqa: N802 - kombu's name
        # Kombu's call when a channel may ask for messages.
        if not (channel.is_asking or channel.is_resting or channel.has_enough):
            super()._register_BRPOP(channel)

    def get(self, callback: Callable[..., Any], timeout: float | None = None) -> None:
        try:
            for channel in list(self._channels):
                if channel.deliver_one():
                    return
            super().get(callback, timeout=timeout)
        finally:
            self._after_get()

    def _after_get(self) -> None:
        # The caller may not come back for long: acks made during the delivery do not wait for its next call.
        for channel in list(self._channels):
            if not channel.has_arrived:
                channel.flush_acks()

    def maybe_restore_messages(self) -> None:
        """Nothing: a consumer's own thread looks after dead consumers."""
