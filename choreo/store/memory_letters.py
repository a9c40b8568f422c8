"""The dead letters in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

from choreo.store.letters import BEGINNING, Card, LetterGroup, Place, Replay
from choreo.store.memory_content import Gathering, locked
from choreo.store.memory_schedule import MemorySchedule
from choreo.store.schedule import Scheduled
from choreo.store.search import MOST, needles


class MemoryLetters(MemorySchedule):
    """See the protocols of `choreo.store` for the guarantees of each method."""

    @locked
    def add_letter(
        self,
        handler: str,
        letter_id: str,
        letter: str,
        scheduled: Sequence[Scheduled] = (),
        card: Card | None = None,
    ) -> None:
        """Record a dead letter outside any unit."""
        self._file(handler, letter_id, letter, card)
        for entry in scheduled:
            self.schedule(handler, entry)

    @locked
    def letters(self, handler: str) -> list[str]:
        """The dead letters of a handler as JSON, oldest first."""
        return list(self._drawers[handler].letters.values())

    @locked
    def with_letters(self, handlers: Sequence[str]) -> list[str]:
        """The handlers among these that have dead letters."""
        return [name for name in handlers if name in self._drawers and self._drawers[name].letters]

    @locked
    def letter_count(self, handler: str, group: str = "", since: float = 0.0) -> int:
        """The number of dead letters of a handler, or of one group, that were recorded at ``since`` or later."""
        return sum(place.at >= since for place in self._drawers[handler].places(group))

    @locked
    def letter_times(self, handler: str) -> tuple[float, float] | None:
        """When the oldest and newest letter of a handler were recorded, in seconds since 1970; None: it has none."""
        places = self._drawers[handler].places()
        return (places[0].at, places[-1].at) if places else None

    @locked
    def newest_letters(self, handler: str, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` letters of a handler, oldest first: when each was recorded, and its JSON."""
        drawer = self._drawers[handler]
        return [(drawer.letter_places[key].at, letter) for key, letter in list(drawer.letters.items())[-limit:]]

    @locked
    def letter(self, handler: str, letter_id: str) -> str | None:
        """One dead letter as JSON; None if there is none with this id."""
        return self._drawers[handler].letters.get(letter_id)

    @locked
    def letter_texts(self, handler: str, ids: Sequence[str]) -> list[str | None]:
        """These dead letters as JSON; None for each that there is not."""
        return [self._drawers[handler].letters.get(letter_id) for letter_id in ids]

    @locked
    def letter_groups(self, handler: str, since: float = 0.0) -> list[LetterGroup]:
        """The groups of the letters that were recorded at ``since`` or later."""
        drawer, groups = self._drawers[handler], dict[str, LetterGroup]()
        for place in drawer.places():
            card = drawer.cards.get(place.id)
            if card is not None and place.at >= since:
                known = groups.get(card.group) or LetterGroup(card.group, "", 0, place.at, place.at)
                groups[card.group] = replace(known, about=card.about, count=known.count + 1, last=place.at)
        return list(groups.values())

    @locked
    def letter_places(
        self, handler: str, limit: int, after: Place = BEGINNING, until: float = inf, group: str = ""
    ) -> list[Place]:
        """The first ``limit`` letters behind this place that were recorded at ``until`` or before."""
        places = self._drawers[handler].places(group)
        known = replace(after, turn=self._turns.get(after.id, after.turn))
        return [place for place in places if place.order > known.order and place.at <= until][:limit]

    @locked
    def letters_about(self, handler: str, subject: str) -> list[tuple[Place, Card]]:
        """The letters whose card may be about this subject, oldest first."""
        drawer = self._drawers[handler]
        cards = ((place, drawer.cards.get(place.id)) for place in drawer.places())
        return [(place, replace(card, about="")) for place, card in cards if card and card.may_be_about(subject)]

    @locked
    def unfiled(self, handler: str) -> list[str]:
        """The ids of the letters that have no card."""
        drawer = self._drawers[handler]
        return [key for key in drawer.letters if key not in drawer.cards]

    @locked
    def file_letters(self, handler: str, cards: Mapping[str, Card]) -> None:
        """Add these letters to the index: id → card."""
        drawer = self._drawers[handler]
        for letter_id, card in cards.items():
            if letter_id in drawer.letters:
                drawer.cards.setdefault(letter_id, card)

    @locked
    def discard(self, handler: str, letter_id: str) -> bool:
        """Remove a dead letter. False when there was none."""
        return self._drawers[handler].take(letter_id)

    @locked
    def discard_all(self, handler: str, ids: Sequence[str]) -> list[bool]:
        """Remove dead letters in one step. False for each that there was not."""
        return [self._drawers[handler].take(letter_id) for letter_id in ids]

    @locked
    def replay_all(self, handler: str, replays: Sequence[Replay]) -> list[bool]:
        """Remove dead letters, forget that their units were settled, and schedule their messages, in one step."""
        return [self._replay(handler, replay) for replay in replays]

    @locked
    def find_letters(self, handler: str, texts: Sequence[str], most: int = MOST) -> tuple[list[str], bool]:
        """The dead letters of this handler, as JSON, that contain one of the texts; True if all were looked at."""
        letters, sought = list(self._drawers[handler].letters.values()), needles(texts)
        found = [letter for letter in letters[:most] if any(text in letter.encode() for text in sought)]
        return found, len(letters) <= most

    def _file(self, handler: str, letter_id: str, letter: str, card: Card | None = None) -> None:
        drawer = self._drawers[handler]
        self._turns.setdefault(letter_id, len(self._turns) + 1)
        place = Place(self._clock(), letter_id, self._turns[letter_id])
        drawer.letters[letter_id], drawer.letter_places[letter_id] = letter, place
        if card is not None:
            drawer.cards[letter_id] = card

    def _replay(self, handler: str, replay: Replay) -> bool:
        drawer, unit = self._drawers[handler], replay.unit
        waiting = drawer.parts.get(unit) if unit is not None else None
        if (waiting is not None and waiting.parts) or not drawer.take(replay.letter):
            return False
        if unit is not None:
            drawer.units.pop(unit, None)
            self._restore(drawer.parts[unit], replay.parts)
        self.schedule(handler, replay.scheduled)
        return True

    def _restore(self, gathering: Gathering, parts: Mapping[str, str]) -> None:
        for name, text in parts.items():
            if name.startswith("?"):
                gathering.counts[name[1:]] = int(text)
            else:
                gathering.parts.setdefault(name, (self._clock(), text))
