"""A Redis server of the platform, by what it tells of itself: its memory, and whether it keeps what it is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: The share of its memory from which a server counts as nearly full.
NEARLY_FULL = 0.9


@dataclass(frozen=True)
class Server:
    """What one Redis server tells. Sizes are in bytes."""

    #: Its address, without a password.
    name: str
    used: int = 0
    #: The most that it may use; 0: no limit.
    limit: int = 0
    policy: str = ""
    #: The number of keys that it has dropped since its start because its memory was full.
    evicted: int = 0
    #: True if it appends every write to a file. None: it does not tell.
    aof: bool | None = None
    #: What failed when it last wrote to its disk; "" if nothing did.
    failed: str = ""
    #: The number of replicas, and the most bytes that one of them is behind.
    replicas: int = 0
    lag: int = 0

    @classmethod
    def of(cls, name: str, info: Mapping[str, Any]) -> "Server":
        """Read the answer to INFO. What it does not tell is left out."""
        told = {str(key): value for key, value in info.items()}
        replicas = [told[key] for key in told if key.startswith("slave") and isinstance(told[key], Mapping)]
        offset = _number(told.get("master_repl_offset"))
        aof = told.get("aof_enabled")
        return cls(
            name,
            used=_number(told.get("used_memory")),
            limit=_number(told.get("maxmemory")),
            policy=str(told.get("maxmemory_policy", "")),
            evicted=_number(told.get("evicted_keys")),
            aof=None if aof is None else bool(_number(aof)),
            failed=", ".join(what for key, what in _WRITES.items() if str(told.get(key, "ok")) != "ok"),
            replicas=len(replicas),
            lag=max((offset - _number(replica.get("offset")) for replica in replicas), default=0),
        )

    @property
    def fullness(self) -> float:
        """The share of its memory that is used; 0 without a limit."""
        return self.used / self.limit if self.limit else 0.0

    @property
    def has_evicting_policy(self) -> bool:
        """True if it drops keys when its memory is full. Without a limit it never is, as far as Redis knows."""
        return self.policy not in ("noeviction", "")

    @property
    def eviction(self) -> str:
        """What it drops, or may drop, in a few words; "" if it keeps all."""
        if self.evicted:
            return f"has evicted {self.evicted:,} keys"
        if not self.has_evicting_policy:
            return ""
        when = "when its memory is full" if self.limit else "as soon as maxmemory is set"
        return f"{self.policy} evicts keys {when}"

    @property
    def trouble(self) -> str:
        """Why it may lose or refuse what it is given; "" if nothing is wrong."""
        reasons = []
        if self.evicted:
            reasons.append(f"has evicted {self.evicted:,} keys")
        if self.limit and self.has_evicting_policy:
            reasons.append(f"may evict: maxmemory-policy is {self.policy}")
        if self.fullness >= NEARLY_FULL:
            reasons.append(f"{self.fullness:.0%} of its memory is used")
        if self.failed:
            reasons.append(f"{self.failed} failed")
        return ", ".join(reasons)


_WRITES = {"aof_last_write_status": "writing the AOF", "rdb_last_bgsave_status": "the last snapshot"}


def _number(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
