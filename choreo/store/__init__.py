"""The store: claims, joins, the schedule, dead letters and the register, each a protocol. In memory or in Redis."""

from choreo.store.claims import (
    FORGOTTEN,
    OUTBOX_GRACE,
    Begun,
    Claim,
    Claims,
    Committed,
    Outcome,
    Settlement,
    Verdict,
)
from choreo.store.joins import Arrival, Joins, Waiting
from choreo.store.letters import Letters
from choreo.store.port import Store
from choreo.store.register import Declared, Register
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
    "Begun",
    "Claim",
    "Claims",
    "Committed",
    "Declared",
    "Joins",
    "Letters",
    "Outcome",
    "Register",
    "Schedule",
    "Scheduled",
    "Settlement",
    "Store",
    "Terms",
    "Verdict",
    "Waiting",
    "deadline_id",
]
