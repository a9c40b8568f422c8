"""Dead letters as the store keeps them: JSON by handler and id."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from choreo.store.schedule import Scheduled


class Letters(Protocol):
    """The dead letters of each handler. Calling a method again is safe."""

    def add_letter(self, handler: str, letter_id: str, letter: str, scheduled: Sequence[Scheduled] = ()) -> None:
        """Record a dead letter outside any unit, for a delivery that cannot be read. ``scheduled`` holds its notice."""

    def letters(self, handler: str) -> list[str]:
        """The dead letters of a handler as JSON, oldest first."""

    def letter_count(self, handler: str) -> int:
        """The number of dead letters of a handler."""

    def letter_times(self, handler: str) -> tuple[float, float] | None:
        """When the oldest and newest letter of a handler were recorded, in seconds since 1970; None: it has none."""

    def newest_letters(self, handler: str, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` letters of a handler, oldest first: when each was recorded, as above, and its JSON."""

    def letter(self, handler: str, letter_id: str) -> str | None:
        """One dead letter as JSON; None if there is none with this id."""

    def discard(self, handler: str, letter_id: str) -> bool:
        """Remove a dead letter. False when there was none."""

    def replay(
        self,
        handler: str,
        letter_id: str,
        unit: str | None,
        parts: Mapping[str, str],
        scheduled: Scheduled,
    ) -> bool:
        """
        Remove a dead letter, forget that its unit was settled, restore a join's parts, and schedule the message.

        ``parts`` are named as in `Arrival`; ``?type`` is how many of a type another part has asked for.
        Parts that took part in a round (see `Settlement.took_part`) count in the restored one.
        False, and nothing is changed, when there was no such letter, because another call was faster; or when other
        parts wait for the same unit.
        """
