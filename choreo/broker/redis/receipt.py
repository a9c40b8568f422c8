"""The receipt of a delivery on Redis: the tag under which its message is in flight, and the claim made for it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

#: Names in `message.delivery_info`, one for each field of `Receipt`.
TAG, CLAIM, CERTAIN_UNTIL = "choreo_tag", "choreo_claim", "choreo_certain_until"

#: A clock that all processes of this machine share. CLOCK_BOOTTIME, where it exists, goes on while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def machine_time() -> float:
    """Seconds of a clock that all processes of this machine share."""
    return time.clock_gettime(_CLOCK)


@dataclass(slots=True)
class Receipt:
    """
    Names the record of a delivery, so that a script can ask "is this delivery still mine?" and ack it.

    The tag is the owner of the message in flight, a colon and a number. It is a field of the hash `Keys.inflight` of
    this owner, exactly as long as the delivery belongs to the consumer that received it, and is not acked. Acking it a
    second time through the channel does no harm.
    The receipt travels in the message's properties, so a pool child has it in `task.request.properties`.

        >>> Receipt.of({"delivery_info": {"choreo_tag": "o:1"}}).tag
        'o:1'
    """

    tag: str
    #: The claim that was made when the message was taken: the attempt, a space, the unit. "" if there is none.
    claim: str = ""
    #: The `machine_time` until which the claim certainly holds: no consumer can have found the owner dead before.
    certain_until: float = 0.0
    #: True if the message was delivered before and was returned.
    redelivered: bool = False

    @classmethod
    def of(cls, properties: Mapping[str, Any] | None) -> Self | None:
        """The receipt in a message's properties; None if the message was not taken through this transport."""
        info = (properties or {}).get("delivery_info") or {}
        if TAG not in info:
            return None
        claim, until = info.get(CLAIM, ""), info.get(CERTAIN_UNTIL, 0.0)
        return cls(info[TAG], claim, until, bool(info.get("redelivered")))

    def holds(self, unit: str, attempt: int) -> bool:
        """True if this delivery certainly holds the claim of this attempt, so that the store need not be asked."""
        return self.claim == f"{attempt} {unit}" and self.is_certain

    @property
    def is_certain(self) -> bool:
        """True while no consumer can have found the owner dead."""
        return machine_time() < self.certain_until
