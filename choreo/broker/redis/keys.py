"""
The names of the broker's keys in Redis.

Every name is written out with the `global_keyprefix`. Queues keep the names that kombu gives them, so that
Flower's broker page, `LLEN` and list-based autoscalers find them.

    >>> Keys("shop:").inflight("host-1-ab")
    'shop:_choreo.inflight.host-1-ab'
"""

import re
from dataclasses import dataclass

#: Consumer argument: where the handler of a queue remembers its finished units. See lua/claim.lua.
INBOX = "x-choreo-inbox"


@dataclass(frozen=True)
class Keys:
    """The keys below one prefix."""

    prefix: str = ""

    @property
    def consumers(self) -> str:
        """Sorted set: owner -> the ms at which it counts as dead."""
        return f"{self.prefix}_choreo.consumers"

    @property
    def bound(self) -> str:
        """Hash: exchange -> how many bindings it should have; '' -> epoch."""
        return f"{self.prefix}_choreo.bound"

    @property
    def exchanges(self) -> str:
        """Hash: exchange -> its type."""
        return f"{self.prefix}_choreo.exchanges"

    def inflight(self, owner: str) -> str:
        """Hash: tag -> queue key, token key and message, of one owner."""
        return f"{self.prefix}_choreo.inflight.{owner}"

    @property
    def all_inflight(self) -> str:
        """The pattern of the names of all owners' hashes, for SCAN."""
        return re.sub(r"([\\*?\[\]])", r"\\\1", self.inflight("")) + "*"

    def begun(self, owner: str) -> str:
        """Set, a day: the tags with which the owner was busy. The store's scripts make this name, too."""
        return f"{self.prefix}_choreo.begun.{owner}"

    def routes(self, exchange: str) -> str:
        """Hash, a cache: routing key -> queues."""
        return f"{self.prefix}_choreo.routes.{exchange}"

    def token(self, queue: str) -> str:
        """List of at most one element: a consumer blocked on it shall wake up."""
        return f"{self.prefix}_choreo.wake.{queue}"
