"""
Orphans: owners that hold messages in flight, but are not in the set of consumers.

Redis may evict the set of consumers and keep the messages in flight. A live owner registers again with its next beat.
An owner that dies before that has no entry that could expire, so no beat ever finds it dead. Therefore each consumer
scans the keys once, when it starts, for owners without an entry.
"""

import re
from time import monotonic

from redis.exceptions import ResponseError

from choreo.broker.redis.keys import Keys
from choreo.redis_client.wire import Wire

#: How many keys one SCAN looks at, and for how many seconds one turn scans before beats get their turn.
KEYS_PER_SCAN = 2000
TURN_SECONDS = 0.3


class Orphans:
    """The owners without an entry that hold messages, each with the time until which it may still register again."""

    def __init__(self, wire: Wire, keys: Keys, timeout: float) -> None:
        self._wire, self._keys, self._timeout = wire, keys, timeout
        self._cursor: int | None = 0
        self._found: dict[str, float] = {}

    @property
    def looked(self) -> bool:
        """True once the scan is over."""
        return self._cursor is None

    def look(self) -> None:
        """Continue the scan for `TURN_SECONDS`. Raises `ResponseError`, and ends the scan, if SCAN is not allowed."""
        until = monotonic() + TURN_SECONDS
        while self._cursor is not None and monotonic() < until:
            try:
                args = ("MATCH", self._keys.all_inflight, "COUNT", KEYS_PER_SCAN, "TYPE", "hash")
                cursor, names = self._wire.command("SCAN", self._cursor, *args)
            except ResponseError:
                self._cursor = None
                raise
            for name in names:
                self._note(name.decode().removeprefix(self._keys.inflight("")))
            self._cursor = int(cursor) or None

    def due(self) -> list[str]:
        """The owners that have had time for a beat. Some may have used it: give_back.lua checks that."""
        now = monotonic()
        return [owner for owner, at in self._found.items() if at <= now]

    def forget(self, owner: str) -> None:
        """Forget an owner: its messages were returned, or it has registered again."""
        del self._found[owner]

    def _note(self, owner: str) -> None:
        if self._wire.command("ZSCORE", self._keys.consumers, owner) is None:
            patience = re.search(r"-(\d+)$", owner)
            self._found[owner] = monotonic() + (int(patience[1]) / 1000 if patience else self._timeout)
