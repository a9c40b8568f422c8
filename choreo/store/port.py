"""The store: five small protocols, kept in one place so that a commit can touch all of them at once."""

from typing import Protocol

from choreo.store.claims import Claims
from choreo.store.joins import Joins
from choreo.store.letters import Letters
from choreo.store.register import Register
from choreo.store.schedule import Schedule


class Store(Claims, Joins, Schedule, Letters, Register, Protocol):
    """
    Everything that choreo must not forget.

    Every method is one decision, and atomic. Raises `StoreError` when the store cannot be reached; nothing is half
    done then, and calling again is safe. Time is the store's own, never a worker's clock.
    """

    def ping(self) -> None:
        """Raise `StoreError` unless the store answers."""
