"""The store: claims, joins, the schedule, dead letters and the register, each a protocol. In memory or in Redis."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from choreo.store.claims import (
        FORGOTTEN,
        OUTBOX_GRACE,
        Claim,
        ClaimResult,
        Claims,
        CommitResult,
        Outcome,
        Settlement,
        Verdict,
    )
    from choreo.store.joins import Arrival, Joins, JoinState
    from choreo.store.letters import Letters
    from choreo.store.port import Store
    from choreo.store.register import Declared, Listening, Register
    from choreo.store.schedule import DEADLINE_PREFIX, DELAYED, TENDED, Backlog, Schedule, Scheduled, deadline_id
    from choreo.store.terms import Terms

__all__ = [
    "DEADLINE_PREFIX",
    "DELAYED",
    "FORGOTTEN",
    "OUTBOX_GRACE",
    "TENDED",
    "Arrival",
    "Backlog",
    "Claim",
    "ClaimResult",
    "Claims",
    "CommitResult",
    "Declared",
    "JoinState",
    "Joins",
    "Letters",
    "Listening",
    "Outcome",
    "Register",
    "Schedule",
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
    "Claims": "choreo.store.claims",
    "CommitResult": "choreo.store.claims",
    "DEADLINE_PREFIX": "choreo.store.schedule",
    "DELAYED": "choreo.store.schedule",
    "Declared": "choreo.store.register",
    "FORGOTTEN": "choreo.store.claims",
    "Joins": "choreo.store.joins",
    "Letters": "choreo.store.letters",
    "Listening": "choreo.store.register",
    "OUTBOX_GRACE": "choreo.store.claims",
    "Outcome": "choreo.store.claims",
    "Register": "choreo.store.register",
    "Schedule": "choreo.store.schedule",
    "Scheduled": "choreo.store.schedule",
    "Settlement": "choreo.store.claims",
    "Store": "choreo.store.port",
    "TENDED": "choreo.store.schedule",
    "Terms": "choreo.store.terms",
    "Verdict": "choreo.store.claims",
    "JoinState": "choreo.store.joins",
    "deadline_id": "choreo.store.schedule",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        from choreo.lazy import attribute

        return globals().setdefault(name, attribute(__name__, name, _HOMES))
