"""The receipt of a delivery on Redis: where its message is in flight, and for whom."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

#: Fields of `message.delivery_info`: see the fields of `Receipt`.
OWNER, INFLIGHT, TAG = "choreo_owner", "choreo_inflight", "choreo_tag"
CLAIM, CERTAIN_UNTIL = "choreo_claim", "choreo_certain_until"

#: A clock that all processes of this machine share, and that goes on while the machine sleeps (where there is one).
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def machine_time() -> float:
    """Seconds, comparable between the processes of this machine."""
    return time.clock_gettime(_CLOCK)


@dataclass(slots=True)
class Receipt:
    """
    What a script needs to know to ask "is this delivery still mine?" and to ack it by itself.

    `HDEL inflight tag` answers 1 exactly once, and only while the delivery belongs to the consumer that received it.
    Acking it a second time through the channel does no harm.
    It travels in the message's properties, so a pool child has it as `task.request.properties`.

        >>> Receipt.of({"delivery_info": {"choreo_owner": "o", "choreo_inflight": "i", "choreo_tag": "o:1"}}).tag
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

    def holds(self, unit: str, attempt: int) -> bool:
        """Whether this attempt is certainly claimed by this delivery, without asking."""
        return self.claim == f"{attempt} {unit}" and self.is_certain

    @property
    def is_certain(self) -> bool:
        """Whether nobody can have taken the owner for dead."""
        return machine_time() < self.certain_until
