"""The log of repairs: what people have changed on a platform. For people; no decision depends on it."""

from typing import Protocol

#: How many repairs are kept, the newest ones; about that many in Redis.
MOST_REPAIRS = 1000


class Repairs(Protocol):
    """The log of repairs, of the whole platform. Each entry is a text. Raises `StoreError`."""

    def note_repair(self, text: str) -> None:
        """Append an entry. Called again after an error, it may be there twice."""

    def repairs(self, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` entries, newest first: when each was made, in seconds since 1970, and its text."""
