"""Joins: the parts that have arrived for a key, and the decision that they are complete."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from choreo.store.claims import Claim, ClaimResult


@dataclass(slots=True)
class Arrival:
    """
    One event for a join, and the parts that the join needs.

    A part is kept under its ``name``, once: its type, or type/identity where the join needs several of a type.
    """

    #: What `needs` and `told` call it: its type, or for a story its role (see `choreo.declare.story`).
    part: str
    name: str
    text: str
    #: The parts that are needed: type → how many; None for one, 0 for as many as another part says.
    needs: Mapping[str, int | None]
    #: How many of the needed types make the join complete.
    at_least: int
    #: Seconds from the first part to the deadline.
    within: float
    #: How many events of other types this one asks for: type → how many.
    counts: Mapping[str, int] = field(default_factory=dict)
    #: True if this part may have been recorded before: the copy was delivered before, or an answer was lost. If the
    #: part is there already, it then counts neither as a duplicate nor as late.
    may_be_repeated: bool = False
    #: The identity of the event, for a join whose key can be joined again once it is settled: a join with rounds. "":
    #: a settled join takes no more events.
    round_of: str = ""


@dataclass(frozen=True, slots=True)
class JoinState:
    """A join that is not settled yet. Times are seconds since 1970, by the store's clock."""

    unit: str
    #: The time at which the join expires unless it is complete.
    deadline: float
    #: True once the deadline has passed and was sent to the handler.
    is_overdue: bool
    #: Name → text, in the order of arrival.
    parts: Mapping[str, str]
    #: Name → time of arrival.
    arrived: Mapping[str, float]
    #: How many events of a type another part has asked for.
    counts: Mapping[str, int]
    #: Attempts whose failure is recorded.
    attempts: int = 0
    #: Seconds for which a worker still holds the claim; 0 when none does.
    lease: float = 0.0


class Joins(Protocol):
    """The joins that wait. Every method is one atomic decision."""

    def arrive(self, claim: Claim, arrival: Arrival) -> ClaimResult:
        """
        Record one part of a join, and claim the join if it is complete.

        The first part sets the deadline. WAIT comes with the number of parts that have arrived. A part that arrived
        before is kept as it was, and claims all the same: the worker that claimed last may have died.
        A complete join takes no further part, so that each attempt sees the same ones. Parts that are not kept are
        counted: see `tally`, and `ClaimResult.note`.

        With ``round_of`` every part is named type/identity. The next event after a join is settled begins a new round,
        unless it took part in an earlier one. (A part of a round that `Letters.replay` restored counts in it again.) An
        event for which the pending round has no place gets BUSY: it must come again.

        The parts that are there may have been named by another declaration: one of a type, or several. All of them
        count. If a join is complete only by a new declaration, its deadline is brought forward by the next event. If it
        is incomplete only by a new declaration, its attempts begin anew.
        """

    def pending(self, handler: str, limit: int, after: str = "") -> tuple[list[str], str]:
        """
        Units of pending joins, soonest deadline first, and the cursor of the next page; "" at the end.

        A page can be shorter than ``limit``. A join that arrives or is settled between two pages may be missed.
        """

    def look(self, handler: str, unit: str) -> JoinState | None:
        """A pending join as it is now; None if there is none."""

    def tally(self, handler: str) -> dict[str, int]:
        """
        How many events did not count for a join.

        "late": they came after the join was complete or settled. "duplicate": the part was there already. "surplus":
        the join had enough of their type. Also the counters of `Settlement.counted`.
        """

    def describe_joins(self, descriptions: Mapping[str, str]) -> None:
        """Record the declarations of these joins: handler → JSON."""

    def joins(self) -> dict[str, str]:
        """Every join that was ever described: handler → JSON."""
