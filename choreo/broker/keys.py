"""
The names of the broker's keys in Redis.

Every name is written out with the `global_keyprefix`. Queues keep the names that kombu gives them, so that
Flower's broker page, `LLEN` and list-based autoscalers find them.

    >>> Keys("shop:").inflight("host-1-ab")
    'shop:_choreo.inflight.host-1-ab'
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

#: Fields of `message.delivery_info` that say whose a delivery is, and what it claims. See `Lease`.
OWNER, INFLIGHT, TAG = "choreo_owner", "choreo_inflight", "choreo_tag"
CLAIM, CERTAIN_UNTIL = "choreo_claim", "choreo_certain_until"

#: The consumer argument that tells the transport where a queue's handler remembers what it has done.
INBOX = "x-choreo-inbox"
#: The consumer argument with whom to show messages that were taken together, before the first of them is delivered.
AHEAD = "x-choreo-ahead"
#: The consumer argument with whom to ask first whether he handles a message without further ado.
SHORTCUT = "x-choreo-shortcut"

#: A clock that all processes of this machine share, and that goes on while the machine sleeps (where it can be had).
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def machine_time() -> float:
    """Seconds, comparable between the processes of this machine."""
    return time.clock_gettime(_CLOCK)


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


@dataclass(slots=True)
class Lease:
    """
    What a script needs to know to ask "is this delivery still mine?" and to ack it by itself.

    `HDEL inflight tag` answers 1 exactly once, and only while the delivery belongs to the consumer that received it.
    Acking it a second time through the channel does no harm.
    It travels in the message's properties, so a pool child has it as `task.request.properties`.

        >>> Lease.of({"delivery_info": {"choreo_owner": "o", "choreo_inflight": "i", "choreo_tag": "o:1"}}).tag
        'o:1'
    """

    owner: str
    inflight: str
    tag: str
    #: The attempt and the event that were claimed when the message was taken; "" if none was.
    claim: str = ""
    #: The `machine_time` until which nobody can have taken the owner for dead, and the claim with it.
    certain_until: float = 0.0
    #: Whether the message has come back, from whoever it was delivered to before.
    redelivered: bool = False

    @classmethod
    def of(cls, properties: Mapping[str, Any] | None) -> Self | None:
        """The lease in a message's properties; None if the message was not taken through this transport."""
        info = (properties or {}).get("delivery_info") or {}
        if OWNER not in info:
            return None
        claim, until = info.get(CLAIM, ""), info.get(CERTAIN_UNTIL, 0.0)
        return cls(info[OWNER], info[INFLIGHT], info[TAG], claim, until, bool(info.get("redelivered")))

    @property
    def receipt(self) -> tuple[str, str]:
        """Where the delivery is kept, and its name there: what acks it."""
        return self.inflight, self.tag

    def holds(self, unit: str, attempt: int) -> bool:
        """Whether this attempt is certainly claimed by this delivery, without asking."""
        return self.claim == f"{attempt} {unit}" and self.is_certain

    @property
    def is_certain(self) -> bool:
        """Whether nobody can have taken the owner for dead."""
        return machine_time() < self.certain_until
