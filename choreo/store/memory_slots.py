"""The slots of one handler, in memory."""

from dataclasses import dataclass, field

from choreo.store.slots import WAITER_TTL, YIELD_AFTER


@dataclass
class MemorySlots:
    """See `choreo.store.slots.Slots`; take_slot.lua decides the same. Times are in seconds."""

    #: Token → the time at which its lease runs out.
    taken: dict[str, float] = field(default_factory=dict)
    #: Worker → the time since which it waits, and at which it last asked.
    waiting: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, token: str, limit: int, waiter: str, now: float, lease: float) -> bool:
        """Take a slot, or wait."""
        if token in self.taken:
            return True
        self.clear(now)
        self.waiting = {name: times for name, times in self.waiting.items() if times[1] > now - WAITER_TTL}
        since = self.waiting[waiter][0] if waiter in self.waiting else now
        before = sum(other < min(since, now - YIELD_AFTER) for other, _ in self.waiting.values())
        if len(self.taken) + before < limit:
            self.taken[token] = now + lease
            self.waiting.pop(waiter, None)
            return True
        self.waiting[waiter] = since, now
        return False

    def renew(self, token: str, now: float, lease: float) -> bool:
        """Prolong a lease."""
        if self.taken.get(token, 0.0) <= now:
            return False
        self.taken[token] = now + lease
        return True

    def clear(self, now: float) -> None:
        """Remove the slots whose leases have run out."""
        self.taken = {token: until for token, until in self.taken.items() if until > now}
