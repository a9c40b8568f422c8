"""Failures in a row: how often a handler has failed since it last succeeded. Only for handlers with a breaker."""

from dataclasses import dataclass
from typing import Protocol

#: The most kinds of failures that are counted one by one in a row. Those of other kinds count as failures only.
MOST_KINDS = 20
#: Seconds after the last failure at which a row is forgotten.
FORGOTTEN_AFTER = 86_400.0


@dataclass(frozen=True, slots=True)
class Row:
    """The failures of a handler in a row, of all its workers together."""

    #: Those of the kind that was counted last.
    of_kind: int
    #: Those of all kinds.
    total: int
    #: The time of the first one, in seconds since 1970 by the store's clock.
    since: float


class Failures(Protocol):
    """The rows of failures. Every method is one atomic decision. Only what fails calls them."""

    def count_failure(self, handler: str, kind: str, *, anew: bool = False) -> Row:
        """Count one more failure of a handler. ``anew``: as the first one of a new row. Returns the row."""

    def forget_failures(self, handler: str) -> None:
        """End the row: the handler has succeeded."""

    def note_held(self, handler: str, schedule_id: str) -> None:
        """Remember that this entry of the handler's schedule waits for the end of the handler's pause."""

    def hasten_held(self, handler: str, most: int | None = None) -> int:
        """
        Let the entries that wait for the end of a pause fall due now: all, or the first ``most``.

        Returns how many there were. They are remembered no longer.
        """
