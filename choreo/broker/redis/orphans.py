"""
Messages in flight whose owner nobody would ever find dead.

Redis may lose the set of consumers alone, by eviction. A living owner enters itself again with its next beat. One that
dies before that has no entry that could pass, so each consumer looks once, when it starts, for what such owners left.
"""

import re
from time import monotonic

from redis.exceptions import ResponseError

from choreo.broker.redis.keys import Keys
from choreo.redis_client.wire import Wire

#: How many keys of the server are looked at in one step, and for how many seconds until other things get their turn.
STEP = 2000
TURN_SECONDS = 0.3


class Orphans:
    """The owners without an entry that hold something, and when each has had its time to beat."""

    def __init__(self, wire: Wire, keys: Keys, timeout: float) -> None:
        self._wire, self._keys, self._timeout = wire, keys, timeout
        self._cursor: int | None = 0
        self._found: dict[str, float] = {}

    @property
    def looked(self) -> bool:
        """Whether the look at the server's keys is over."""
        return self._cursor is None

    def look(self) -> None:
        """Go on looking, for a short time."""
        until = monotonic() + TURN_SECONDS
        while self._cursor is not None and monotonic() < until:
            try:
                args = ("MATCH", self._keys.all_inflight, "COUNT", STEP, "TYPE", "hash")
                cursor, names = self._wire.command("SCAN", self._cursor, *args)
            except ResponseError:
                # Not everybody may look at all keys.
                self._cursor = None
                raise
            for name in names:
                self._note(name.decode().removeprefix(self._keys.inflight("")))
            self._cursor = int(cursor) or None

    def due(self) -> list[str]:
        """The owners that have had time for a beat. Whether they used it, whoever buries them asks the server."""
        now = monotonic()
        return [owner for owner, at in self._found.items() if at <= now]

    def forget(self, owner: str) -> None:
        """Its messages went back, or are its own."""
        del self._found[owner]

    def _note(self, owner: str) -> None:
        if self._wire.command("ZSCORE", self._keys.consumers, owner) is None:
            patience = re.search(r"-(\d+)$", owner)
            self._found[owner] = monotonic() + (int(patience[1]) / 1000 if patience else self._timeout)
