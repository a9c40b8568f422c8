"""
The names of the broker's keys in Redis.

Every name begins with the `global_keyprefix`. Queues keep the names that kombu gives them, so that Flower's broker
page, `LLEN` and list-based autoscalers find them.

    >>> Keys("shop:").inflight("host-1-ab")
    'shop:_choreo.inflight.host-1-ab'
"""

import re
from dataclasses import dataclass

#: Consumer argument that names the inbox of the queue's handler: the retention in ms, a space, and the start of the
#: names of the handler's keys. See lua/claim_copy.lua.
INBOX = "x-choreo-inbox"

#: kombu's separator between the parts of a binding, if the transport option `sep` names no other.
SEP = "\x06\x16"
#: The name that kombu gives to the set of an exchange's bindings.
BINDINGS = "_kombu.binding.%s"


@dataclass(frozen=True)
class Keys:
    """The names of the keys below one prefix."""

    prefix: str = ""

    @property
    def consumers(self) -> str:
        """Sorted set: owner -> the time in ms at which it counts as dead."""
        return f"{self.prefix}_choreo.consumers"

    @property
    def bound(self) -> str:
        """Hash: exchange -> how many bindings it should have; '' -> the epoch. See lua/bind.lua."""
        return f"{self.prefix}_choreo.bound"

    @property
    def exchanges(self) -> str:
        """Hash: exchange -> its type."""
        return f"{self.prefix}_choreo.exchanges"

    def inflight(self, owner: str) -> str:
        """Hash, one per owner: tag -> the queue's key, the wake-up mark's key, and the message."""
        return f"{self.prefix}_choreo.inflight.{owner}"

    @property
    def all_inflight(self) -> str:
        """The pattern for SCAN that finds the `inflight` hashes of all owners."""
        return re.sub(r"([\\*?\[\]])", r"\\\1", self.inflight("")) + "*"

    def begun(self, owner: str) -> str:
        """Set, kept for a day: tags of messages that the owner had begun. The store's claim_unit.lua uses it too."""
        return f"{self.prefix}_choreo.begun.{owner}"

    def routes(self, exchange: str) -> str:
        """Hash, a cache: routing key -> queues. See lua/route.lua."""
        return f"{self.prefix}_choreo.routes.{exchange}"

    def wake_up(self, queue: str) -> str:
        """List of at most one element, the wake-up mark: it wakes a consumer that blocks on the list."""
        return f"{self.prefix}_choreo.wake.{queue}"
