"""Watches a Redis server for the eviction of keys, at the start of a worker and while it runs."""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

logger = logging.getLogger("choreo.broker")

#: Seconds between two looks at one server.
INTERVAL = 15.0

#: Server → its watch. A worker reaches one server by several connections, and looks once.
_watches: dict[str, "EvictionWatch"] = {}


class EvictionWatch:
    """
    Watches one server. Safe in threads.

    A policy that evicts is logged as a warning: once, and again whenever it has changed. Keys that were evicted since
    the last look are logged as an error, with their number: among them may be events, joins and dead letters.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._looking = threading.Lock()
        self._next_look = 0.0
        self._policy = "noeviction"
        self._evicted: int | None = None
        #: How many keys were evicted while this process was watching.
        self.count = 0

    @classmethod
    def of(cls, server: str) -> "EvictionWatch":
        """The watch of this process for a server: ``host:port``."""
        return _watches.setdefault(server, cls(server))

    def look(self, ask: Callable[[], Any]) -> None:
        """
        Look, unless the last look was less than `INTERVAL` seconds ago.

        ``ask`` is a callback that returns the server's answer to INFO, as a dict or as its text. It may raise.
        """
        with self._looking:
            if monotonic() < self._next_look:
                return
            self._next_look = monotonic() + INTERVAL
        facts = _read(ask())
        if "maxmemory_policy" in facts:  # else the server lets this user see nothing
            self._note_policy(facts["maxmemory_policy"])
            self._note_evicted(int(facts.get("evicted_keys", 0)))

    def _note_policy(self, policy: str) -> None:
        before, self._policy = self._policy, policy
        if policy not in ("noeviction", before):
            logger.warning(
                "Redis at %s may evict queues, bindings and joins when its memory is full: maxmemory-policy is %r. "
                "Set `maxmemory-policy noeviction`",
                self._server,
                policy,
            )

    def _note_evicted(self, evicted: int) -> None:
        before, self._evicted = self._evicted, evicted
        # The count begins anew with the server.
        if before is not None and evicted > before:
            self.count += evicted - before
            logger.error(
                "Redis at %s has evicted %d key(s), %d since this worker watches: events, joins or dead letters may be "
                "lost. Set `maxmemory-policy noeviction`, and raise maxmemory, or move other programs to a Redis of "
                "their own",
                self._server,
                evicted - before,
                self.count,
            )


def watch(url: str, ask: Callable[[], Any]) -> None:
    """Look at the server of a URL now and then. Never raises: its outages are noticed elsewhere."""
    server = url.rpartition("@")[2].rpartition("://")[2].partition("?")[0].partition("/")[0]
    try:
        EvictionWatch.of(server or url).look(ask)
    except Exception as error:  # a server that is not quite Redis may answer anything
        logger.debug("cannot watch Redis at %s for evictions: %s", server, error)


def _read(answer: Any) -> dict[str, str]:
    if isinstance(answer, dict):
        return {str(name): str(value) for name, value in answer.items()}
    lines = (answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)).splitlines()
    return {name: value for name, separator, value in (line.partition(":") for line in lines) if separator}
