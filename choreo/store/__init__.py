"""
The store: claims, joins, the schedule, dead letters and the register, each a protocol. In memory or in Redis.

The names that programs outside of this room use are here, and are imported when they are read.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from choreo.store.claims import (
        Claim,
        ClaimResult,
        CommitResult,
        Outcome,
        Settlement,
        Verdict,
    )
    from choreo.store.joins import Arrival, JoinState
    from choreo.store.port import Store
    from choreo.store.register import Listening
    from choreo.store.schedule import DELAYED, Backlog, Scheduled, deadline_id
    from choreo.store.terms import Terms

__all__ = [
    "DELAYED",
    "Arrival",
    "Backlog",
    "Claim",
    "ClaimResult",
    "CommitResult",
    "JoinState",
    "Listening",
    "Outcome",
    "Scheduled",
    "Settlement",
    "Store",
    "Terms",
    "Verdict",
    "deadline_id",
]

#: The module of each name. See `choreo.lazy`.
_HOMES = {
    "Arrival": "choreo.store.joins",
    "Backlog": "choreo.store.schedule",
    "ClaimResult": "choreo.store.claims",
    "Claim": "choreo.store.claims",
    "CommitResult": "choreo.store.claims",
    "DELAYED": "choreo.store.schedule",
    "Listening": "choreo.store.register",
    "Outcome": "choreo.store.claims",
    "Scheduled": "choreo.store.schedule",
    "Settlement": "choreo.store.claims",
    "Store": "choreo.store.port",
    "Terms": "choreo.store.terms",
    "Verdict": "choreo.store.claims",
    "JoinState": "choreo.store.joins",
    "deadline_id": "choreo.store.schedule",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from choreo.lazy import attribute

        return globals().setdefault(name, attribute(__name__, name, _HOMES))
