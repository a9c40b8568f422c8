"""Slots: how many runs of one handler there are at a time, in all workers (``concurrency=``)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

#: Seconds after which a worker that no longer asks for a slot has lost its place among those that wait.
WAITER_TTL = 2.0
#: Seconds for which another worker may wait for a slot until it goes before a worker that asks anew. Within that time a
#: worker whose run has ended goes on at once with its next event, and no round trip between workers is waited for.
YIELD_AFTER = 0.2


@dataclass(frozen=True, slots=True)
class Slot:
    """The right of one run to take place. It is a lease: `Terms.lease`."""

    handler: str
    #: Unique to the run.
    token: str


class Slots(Protocol):
    """The slots of each handler with a ``concurrency``. Every method is one atomic decision."""

    def take_slot(self, slot: Slot, limit: int, waiter: str) -> bool:
        """
        Take a slot if fewer than ``limit`` are taken, and no other worker has waited for longer.

        ``waiter`` is the name of the worker. If the answer is False, it waits: see `WAITER_TTL` and `YIELD_AFTER`.
        Taking a slot again answers True. A slot that was not renewed in time is free.
        """

    def renew_slot(self, slot: Slot) -> bool:
        """Prolong the lease of a slot. False when it is no longer taken."""

    def free_slot(self, slot: Slot) -> None:
        """Give a slot up. Nothing if it is not taken."""

    def taken_slots(self, handler: str) -> Sequence[str]:
        """The tokens of the slots of this handler that are taken."""
