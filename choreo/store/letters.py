"""
Dead letters as the store keeps them: JSON by handler and id, with an index beside them.

The index has a card of each letter, and lists the letters of each group by the time at which they were recorded. So
letters are counted, grouped and found without reading them. The steps that add and remove a letter keep its index. A
letter that was recorded without a card, as by an older choreo, is `unfiled` until `file_letters` is called.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from choreo.store.schedule import Scheduled

#: The most subjects of one card, and the most characters of one subject.
MOST_SUBJECTS, LONGEST_SUBJECT = 20, 300


@dataclass(frozen=True, slots=True)
class Card:
    """The entry of a dead letter in the index."""

    #: The id of the group that the letter belongs to: a word.
    group: str
    #: A text about the group. It is kept once per group, as the newest letter has it.
    about: str = ""
    #: The subjects of the letter's events. None: there are too many, or too long ones, and only the letter tells them.
    subjects: Sequence[str] | None = ()

    @classmethod
    def of(cls, group: str, about: str, subjects: Iterable[str]) -> "Card":
        """A card with these subjects, within bounds."""
        found = tuple(dict.fromkeys(filter(None, subjects)))
        fits = len(found) <= MOST_SUBJECTS and all(len(one) <= LONGEST_SUBJECT for one in found)
        return cls(group, about, found if fits else None)

    def may_be_about(self, subject: str) -> bool:
        """False if no event of the letter has this subject."""
        return self.subjects is None or subject in self.subjects

    def subjects_text(self) -> str:
        """The subjects as JSON, for `read_subjects`."""
        return json.dumps(self.subjects)


def read_subjects(text: str) -> Sequence[str] | None:
    """The subjects of a card from `Card.subjects_text`. None for any other text: then the letter must tell them."""
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, list):
            return tuple(map(str, found))
    return None


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """The dead letters of one handler that have the same group."""

    group: str
    about: str
    count: int
    #: When the oldest and the newest of them were recorded, in seconds since 1970 by the store's clock.
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Place:
    """A letter in the list of its handler: when it was recorded, as above, and its id. Places are in this order."""

    at: float
    id: str
    #: Tells letters of one moment apart, where the store knows which came first.
    turn: int = 0

    @property
    def order(self) -> tuple[float, int, str]:
        """Compares as the places do."""
        return self.at, self.turn, self.id


#: The place before all letters.
BEGINNING = Place(-inf, "")


@dataclass(frozen=True, slots=True)
class Replay:
    """A dead letter that is removed, and the message that is scheduled in its place."""

    letter: str
    scheduled: Scheduled
    #: The unit that is forgotten, so that it runs again; None: none is.
    unit: str | None = None
    #: The parts that a join has again. They are named as in `Arrival`; ``?type`` is how many of a type another part has
    #: asked for. Parts that took part in a round (see `Settlement.took_part`) count in the restored one.
    parts: Mapping[str, str] = field(default_factory=dict)


class Letters(Protocol):
    """The dead letters of each handler. Calling a method again is safe."""

    def add_letter(
        self,
        handler: str,
        letter_id: str,
        letter: str,
        scheduled: Sequence[Scheduled] = (),
        card: Card | None = None,
    ) -> None:
        """
        Record a dead letter outside any unit, for a delivery that cannot be read. ``scheduled`` holds its notice.

        Without a ``card`` it is `unfiled`.
        """

    def letters(self, handler: str) -> list[str]:
        """The dead letters of a handler as JSON, oldest first."""

    def with_letters(self, handlers: Sequence[str]) -> list[str]:
        """The handlers among these that have dead letters, or whose letters cannot be looked at. One round trip."""

    def letter_count(self, handler: str, group: str = "", since: float = 0.0) -> int:
        """The number of dead letters of a handler, or of one group, that were recorded at ``since`` or later."""

    def letter_times(self, handler: str) -> tuple[float, float] | None:
        """When the oldest and newest letter of a handler were recorded, in seconds since 1970; None: it has none."""

    def newest_letters(self, handler: str, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` letters of a handler, oldest first: when each was recorded, as above, and its JSON."""

    def letter(self, handler: str, letter_id: str) -> str | None:
        """One dead letter as JSON; None if there is none with this id."""

    def letter_texts(self, handler: str, ids: Sequence[str]) -> list[str | None]:
        """These dead letters as JSON; None for each that there is not."""

    def letter_groups(self, handler: str, since: float = 0.0) -> list[LetterGroup]:
        """The groups of the letters that were recorded at ``since`` or later. Unfiled letters are in none."""

    def letter_places(
        self, handler: str, limit: int, after: Place = BEGINNING, until: float = inf, group: str = ""
    ) -> list[Place]:
        """
        The first ``limit`` letters behind this place that were recorded at ``until`` or before, oldest first.

        With ``group`` only those of that group. Letters of one millisecond are in the order of their ids.
        """

    def letters_about(self, handler: str, subject: str) -> list[tuple[Place, Card]]:
        """
        The letters whose card may be about this subject, oldest first. The cards are without the text about the group.

        Looks at all cards of the handler. Unfiled letters are not found.
        """

    def unfiled(self, handler: str) -> list[str]:
        """The ids of the letters that have no card. Mostly there are none, and no letter is looked at."""

    def file_letters(self, handler: str, cards: Mapping[str, Card]) -> None:
        """Add these letters to the index: id → card. Those that are gone, or are there already, are left out."""

    def discard(self, handler: str, letter_id: str) -> bool:
        """Remove a dead letter. False when there was none."""

    def discard_all(self, handler: str, ids: Sequence[str]) -> list[bool]:
        """Remove dead letters in one step. False for each that there was not."""

    def replay_all(self, handler: str, replays: Sequence[Replay]) -> list[bool]:
        """
        Remove dead letters, forget that their units were settled, restore a join's parts, and schedule the messages.

        All of it is one step. False for each letter of which nothing was changed: there was no such letter, because
        another call was faster; or other parts wait for the same unit.
        """
