"""The servers that keep the store, and their memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Server:
    """One server of the store, as it is now. A server may hide what it does not want to tell: that is then None."""

    #: Its host and port, and the database; or the path of its socket.
    address: str
    #: Bytes that it uses.
    used: int | None = None
    #: Bytes that it may use; None: no limit is set.
    limit: int | None = None
    #: What it does when its memory is full. Anything but "noeviction" loses events.
    policy: str | None = None
    #: Keys that it has evicted since its start.
    evicted: int | None = None
    #: True if it writes each change to disk (an append-only file).
    is_persistent: bool | None = None

    @property
    def evicts(self) -> bool:
        """True if it may drop what choreo keeps."""
        return self.policy not in (None, "noeviction")

    @classmethod
    def of(cls, address: str, info: Mapping[str, Any]) -> "Server":
        """The server at this address, by its answer to INFO."""
        persistent = _number(info.get("aof_enabled"))
        return cls(
            address,
            used=_number(info.get("used_memory")),
            limit=_number(info.get("maxmemory")) or None,
            policy=str(info["maxmemory_policy"]) if "maxmemory_policy" in info else None,
            evicted=_number(info.get("evicted_keys")),
            is_persistent=None if persistent is None else bool(persistent),
        )


def _number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):  # a server that is not quite Redis may answer anything
        return None
