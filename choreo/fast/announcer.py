"""
Publishing what several commits have announced: in one write, with one wait for all confirms.

The events are in the outbox since their commits. They leave it once the broker has confirmed them: the store is told
with the next commits, or after `TELL_SECONDS`. If the worker dies before, they are published twice, and the inbox of
each handler recognises the second.

While one group is being published, what comes collects for the next one. A worker with more to do leaves the waiting to
a thread, and handles the next events meanwhile. It publishes by itself if nothing else waits, which is quicker, or if
the thread is `MOST_WAITING` events behind.
"""

import logging
import threading
import time
from collections.abc import Mapping

from choreo.daemon import Daemon
from choreo.delivery.ports import Ports
from choreo.errors import PublishError, StoreError
from choreo.events.message import Message
from choreo.store.together import Sent

logger = logging.getLogger(__name__)

#: The most messages that wait for the thread.
MOST_WAITING = 512
#: Seconds after which the store is told what was sent, if no commit has told it.
TELL_SECONDS = 0.1
#: Seconds between two turns of the thread while nothing waits for it.
IDLE_SECONDS = 0.25
#: A message in the outbox: handler, id, message.
_Entry = tuple[str, str, Message]


class Announcer:
    """Publishes the outbox of this process's own commits. ``ports`` are the service's. Safe in threads."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._waiting: list[_Entry] = []
        #: Handler → the ids of messages that were sent, and of which the store does not know it.
        self._sent: dict[str, list[str]] = {}
        #: The time since which the store does not know the oldest of them.
        self._sent_since = 0.0
        self._lock, self._publishing = threading.Lock(), threading.Lock()
        self._daemon = Daemon("choreo-announcer", self._turn, IDLE_SECONDS)

    def add(self, handler: str, messages: Mapping[str, Message]) -> None:
        """Note messages of a commit that is recorded: id in the outbox → message. `work` publishes them."""
        with self._lock:
            self._waiting += [(handler, key, message) for key, message in messages.items()]

    def work(self, *, here: bool) -> None:
        """
        Publish all that waits: in this thread if ``here`` is true, and no other thread is doing it; else by a thread.

        Raises nothing: what is not published stays in the outbox, and the clock of any worker publishes it.
        """
        if not self._waiting:
            return
        self._daemon.start()
        if here or len(self._waiting) > MOST_WAITING:
            self._publish(wait=len(self._waiting) > MOST_WAITING)
        else:
            self._daemon.wake()

    def take_sent(self) -> Sent:
        """What was sent, for the store: handler → ids. The caller tells it."""
        with self._lock:
            sent, self._sent = self._sent, {}
        return sent

    def tell(self) -> None:
        """Tell the store what was sent."""
        if sent := self.take_sent():
            try:
                self._ports.store.sent_all(sent)
            except StoreError as error:  # then the clock sends it once more
                logger.debug("the store was not told what was sent: %s", error)

    def close(self) -> None:
        """End the thread, and tell the store what was sent."""
        self._daemon.end()
        self.tell()

    def _turn(self) -> None:
        self._publish(wait=True)
        if self._sent and time.monotonic() - self._sent_since >= TELL_SECONDS:
            self.tell()

    def _publish(self, *, wait: bool) -> None:
        # Asked again after the release: messages may have come when the last ones were taken already.
        while self._waiting and self._publishing.acquire(blocking=wait):
            try:
                with self._lock:
                    entries, self._waiting = self._waiting, []
                if entries:
                    self._send(entries)
            finally:
                self._publishing.release()

    def _send(self, entries: list[_Entry]) -> None:
        try:
            self._ports.publisher.send([message for _, _, message in entries])
        except PublishError as error:
            # The commits hold. The clock of any worker of this service sends the rest.
            handlers = ", ".join(sorted({handler for handler, _, _ in entries}))
            logger.warning("%s: not everything that was announced is sent yet: %s", handlers, error)
            confirmed = {id(message) for message in error.confirmed}
            entries = [entry for entry in entries if id(entry[2]) in confirmed]
        except Exception:  # it must not fail the run in this thread, which is recorded and acked
            logger.exception("what %d events announced could not be published; it is tried again", len(entries))
            return
        with self._lock:
            if not self._sent:
                self._sent_since = time.monotonic()
            for handler, key, _ in entries:
                self._sent.setdefault(handler, []).append(key)
