"""The pause keeper: looks at the pauses of a service's handlers, and has the worker follow them."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from choreo.daemon import Daemon
from choreo.errors import StoreError
from choreo.store.pauses import Pause
from choreo.store.port import Store

logger = logging.getLogger(__name__)

#: Seconds between two looks. A pause or its end that no wake-up tells is followed so much later.
INTERVAL = 1.0
#: The share of a handler that is stopped.
STOPPED = 0.0
#: Callback: gets handler → its pause, of those that are in force.
OnLook = Callable[[Mapping[str, Pause]], object]


class PauseKeeper:
    """
    Looks at the pauses every `INTERVAL` seconds, in a thread, from `start` to `stop`; and at once after `wake`.

    ``handlers`` are those of this worker's service. ``follow`` is a callback: it is called, in the keeper's thread,
    whenever `shares` has changed. ``program`` is the name of this process in the register.

    While the store is away, the pauses of the last look hold. A worker does not begin before its first look: it waits
    for the store anyway.
    """

    def __init__(
        self,
        store: Store,
        handlers: Sequence[str],
        queue_of: Callable[[str], str],
        program: str,
        follow: Callable[[], object],
    ) -> None:
        self._store, self._handlers, self._queue_of = store, [name for name in handlers if "." in name], queue_of
        self._program, self._follow = program, follow
        self._daemon = Daemon("choreo-pauses", self._turn, INTERVAL)
        self._is_away = False
        self._pid = os.getpid()
        #: Handler → its pause, as of the last look.
        self.pauses: Mapping[str, Pause] = {}
        #: Handler → events per second that this worker may handle, for those that are paused; `STOPPED`: none.
        self.shares: Mapping[str, float] = {}
        #: Called in the keeper's thread after each look.
        self.on_look: list[OnLook] = []

    def start(self) -> None:
        """Look for the first time, and start the thread. Raises `StoreError`: this worker must not begin."""
        self._look()
        self._daemon.start()

    def wake(self) -> None:
        """Look at once, in the thread: a pause has begun or ended."""
        self._daemon.wake()

    def stand_by(self, handler: str) -> None:
        """
        Return once this worker has learnt that a handler is paused; after `INTERVAL` at most.

        A child of a pool cannot wake its parent. It waits until the parent has looked by itself.
        """
        if os.getpid() != self._pid:
            time.sleep(INTERVAL)
            return
        self.wake()
        until = time.monotonic() + INTERVAL
        while handler not in self.shares and time.monotonic() < until:
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop the thread."""
        self._daemon.stop()

    def _turn(self) -> None:
        try:
            self._look()
        except StoreError as error:
            if not self._is_away:
                logger.warning("the pauses of the last look hold until this is mended: %s", error)
            self._is_away = True

    def _look(self) -> None:
        seen = self._store.pauses(self._handlers)
        shares = {name: self._share(pause) for name, pause in seen.items()}
        self._is_away = False
        before, self.pauses = self.pauses, seen
        _log(before, seen)
        if shares != self.shares:
            self.shares = shares
            self._follow()
        for told in self.on_look:
            told(seen)

    def _share(self, pause: Pause) -> float:
        """The events per second that this worker may handle: all workers that consume the queue have equal shares."""
        if pause.rate is None:
            return STOPPED
        service, queue = pause.handler.partition(".")[0], self._queue_of(pause.handler)
        others = [one for one in self._store.workers(service) if queue in one.queues and one.name != self._program]
        return pause.rate / (len(others) + 1)


def stand_by(worker: Any, handler: str) -> None:
    """As `PauseKeeper.stand_by`. A child of a pool that was forked before the keeper began has none, and waits."""
    if worker.pauses is None:
        time.sleep(INTERVAL)
    else:
        worker.pauses.stand_by(handler)


def _log(before: Mapping[str, Pause], now: Mapping[str, Pause]) -> None:
    for handler, pause in now.items():
        known = before.get(handler)
        if known is None or (known.id, known.since, known.rate) != (pause.id, pause.since, pause.rate):
            logger.warning("%s", pause)
    for handler in before.keys() - now.keys():
        logger.warning("%s is resumed", handler)
