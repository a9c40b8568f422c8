"""The dead letters in Redis. The scripts that commit add them: see settle.lua."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

from choreo.redis_client.scripts import Script
from choreo.store.letters import BEGINNING, Card, LetterGroup, Place, Replay, read_subjects
from choreo.store.redis_part import RedisPart
from choreo.store.schedule import Scheduled

#: How many letters are removed from the index in one step, and how many cards are read at once.
PAGE, LONG_PAGE = 500, 2000
#: Up to so many letters are compared with their cards one by one; of more, only the numbers.
COMPARED = 1000


class RedisLetters(RedisPart):
    """See `choreo.store.letters.Letters` for the methods."""

    def letters(self, handler: str) -> list[str]:
        """The dead letters of a handler as JSON, oldest first."""
        ids = self._calls.ask(lambda client: client.zrange(self._index(handler), 0, -1))
        return [letter for letter in self._texts(handler, ids) if letter is not None]

    def with_letters(self, handlers: Sequence[str]) -> list[str]:
        """The handlers among these that have dead letters, or whose letters cannot be looked at."""
        answers = self._calls.timed([("EXISTS", self._letters(name)) for name in handlers]) if handlers else []
        return [name for name, (_, answer) in zip(handlers, answers, strict=True) if answer != 0]

    def letter_count(self, handler: str, group: str = "", since: float = 0.0) -> int:
        """The number of dead letters of a handler, or of one group, that were recorded at ``since`` or later."""
        if not group and not since:
            return int(self._calls.ask(lambda client: client.hlen(self._letters(handler))))
        key = self._listed(handler, group)
        return int(self._calls.ask(lambda client: client.zcount(key, _ms(since), "+inf")))

    def letter_times(self, handler: str) -> tuple[float, float] | None:
        """When the oldest and newest letter of a handler were recorded, in seconds since 1970; None: it has none."""
        index = self._index(handler)

        def ask(pipeline: Any) -> None:
            pipeline.zrange(index, 0, 0, withscores=True)
            pipeline.zrange(index, -1, -1, withscores=True)

        first, last = self._calls.together(ask)
        return (first[0][1] / 1000, last[0][1] / 1000) if first and last else None

    def newest_letters(self, handler: str, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` letters of a handler, oldest first: when each was recorded, and its JSON."""
        times = self._calls.ask(lambda client: client.zrange(self._index(handler), -limit, -1, withscores=True))
        together = zip(times, self._texts(handler, [key for key, _ in times]), strict=True)
        return [(at / 1000, letter) for (_, at), letter in together if letter is not None]

    def letter(self, handler: str, letter_id: str) -> str | None:
        """One dead letter as JSON; None if there is none with this id."""
        return self.letter_texts(handler, [letter_id])[0]

    def letter_texts(self, handler: str, ids: Sequence[str]) -> list[str | None]:
        """These dead letters as JSON; None for each that there is not."""
        return self._texts(handler, ids)

    def letter_groups(self, handler: str, since: float = 0.0) -> list[LetterGroup]:
        """The groups of the letters that were recorded at ``since`` or later."""
        about = self._calls.ask(lambda client: client.hgetall(self._key(handler, "letters", "groups")))
        names = [name.decode() for name in about]
        least = _ms(since)

        def ask(pipeline: Any) -> None:
            for name in names:
                key = self._listed(handler, name)
                pipeline.zcount(key, least, "+inf")
                pipeline.zrangebyscore(key, least, "+inf", start=0, num=1, withscores=True)
                pipeline.zrange(key, -1, -1, withscores=True)

        answers = self._calls.together(ask) if names else []
        rows = zip(about.items(), answers[::3], answers[1::3], answers[2::3], strict=True)
        return [
            LetterGroup(name.decode(), text.decode(errors="replace"), count, first[0][1] / 1000, last[0][1] / 1000)
            for (name, text), count, first, last in rows
            if first and last
        ]

    def letter_places(
        self, handler: str, limit: int, after: Place = BEGINNING, until: float = inf, group: str = ""
    ) -> list[Place]:
        """The first ``limit`` letters behind this place that were recorded at ``until`` or before."""
        key, found, skipped = self._listed(handler, group), list[Place](), 0
        # Several letters may have been recorded in the same millisecond, and some of them be on the page before.
        while len(found) < limit:
            left = limit - len(found)
            page = self._calls.ask(
                partial(_page, key=key, least=_ms(after.at), most=_ms(until), start=skipped, count=left)
            )
            places = [Place(at / 1000, letter.decode()) for letter, at in page]
            found += [place for place in places if place.order > after.order]
            skipped += len(page)
            if len(page) < left:
                break
        return found

    def letters_about(self, handler: str, subject: str) -> list[tuple[Place, Card]]:
        """The letters whose card may be about this subject, oldest first."""
        cards = self._calls.ask(partial(_cards_with, key=self._key(handler, "letters", "cards"), subject=subject))
        ids = [one for one, card in cards.items() if card.may_be_about(subject)]
        times = self._calls.ask(lambda client: client.zmscore(self._index(handler), ids)) if ids else []
        places = [Place(at / 1000, one) for one, at in zip(ids, times, strict=True) if at is not None]
        return [(place, cards[place.id]) for place in sorted(places, key=lambda place: place.order)]

    def unfiled(self, handler: str) -> list[str]:
        """The ids of the letters that have no card. Cards whose letters are gone are removed."""
        letters, cards = self._letters(handler), self._key(handler, "letters", "cards")

        def count(pipeline: Any) -> None:
            pipeline.hlen(letters)
            pipeline.hlen(cards)

        there, carded = self._calls.together(count)
        # An older choreo that runs beside may have recorded as many as it has removed.
        if there == carded and there > COMPARED:
            return []
        ids = self._calls.ask(lambda client: client.zrange(self._index(handler), 0, -1))
        known = set(self._calls.ask(lambda client: client.hkeys(cards)))
        gone = [letter.decode() for letter in known.difference(ids)]
        for at in range(0, len(gone), PAGE):
            # One that was recorded between the two questions is not gone: the script looks again.
            args = [self._key(handler, ""), *gone[at : at + PAGE]]
            self._calls.run(Script.load("store/forget_cards"), self._letter_keys(handler), args)
        return [letter.decode() for letter in ids if letter not in known]

    def file_letters(self, handler: str, cards: Mapping[str, Card]) -> None:
        """Add these letters to the index."""
        args = [self._key(handler, "")]
        for letter_id, card in cards.items():
            args += [letter_id, card.group, card.about, card.subjects_text()]
        self._calls.run(Script.load("store/file_letters"), self._letter_keys(handler), args)

    def discard(self, handler: str, letter_id: str) -> bool:
        """Remove a dead letter. False when there was none."""
        return self.discard_all(handler, [letter_id])[0]

    def discard_all(self, handler: str, ids: Sequence[str]) -> list[bool]:
        """Remove dead letters in one step. False for each that there was not."""
        args = [self._key(handler, ""), *ids]
        return [bool(gone) for gone in self._calls.run(Script.load("store/discard"), self._letter_keys(handler), args)]

    def replay_all(self, handler: str, replays: Sequence[Replay]) -> list[bool]:
        """Remove dead letters, forget that their units were settled, and schedule their messages, in one step."""
        calendar = self._key(handler, "due"), self._key(handler, "messages")
        args: list[Any] = [self._key(handler, ""), self._retention]
        for replay in replays:
            args += _arguments(replay)
        answers = self._calls.run(Script.load("store/replay"), [*calendar, *self._letter_keys(handler)], args)
        return [bool(answer) for answer in answers]

    def _letters(self, handler: str) -> str:
        return self._key(handler, "letters")

    def _index(self, handler: str) -> str:
        return self._key(handler, "letters", "index")

    def _listed(self, handler: str, group: str) -> str:
        """The ZSET that lists the letters of a group, or all of them."""
        return self._key(handler, "letters", "group", group) if group else self._index(handler)

    def _letter_keys(self, handler: str) -> list[str]:
        """The keys of discard.lua, file_letters.lua and forget_cards.lua."""
        return [self._letters(handler), self._index(handler), self._key(handler, "done", "")]

    def _texts(self, handler: str, ids: Sequence[Any]) -> list[str | None]:
        found = self._calls.ask(lambda client: client.hmget(self._letters(handler), ids)) if ids else []
        return [None if letter is None else letter.decode() for letter in found]


def _page(client: Any, key: str, least: Any, most: Any, start: int, count: int) -> Any:
    return client.zrangebyscore(key, least, most, start=start, num=count, withscores=True)


def _cards_with(client: Any, key: str, subject: str) -> dict[str, Card]:
    """The cards that contain this subject, or do not tell theirs: id → card."""
    named = json.dumps(subject).encode()
    found = client.hscan_iter(key, count=LONG_PAGE)
    return {
        one.decode(): _card(text.decode(errors="replace"))
        for one, text in found
        if named in text or not text.endswith(b"]")
    }


def _card(text: str) -> Card:
    group, _, subjects = text.partition(" ")
    return Card(group, "", read_subjects(subjects))


def _arguments(replay: Replay) -> list[Any]:
    """The arguments of replay.lua for one letter."""
    unit, scheduled = replay.unit, replay.scheduled
    # A join keeps its own HASH, and is not in the inbox.
    remembered = "" if unit is None or unit.startswith("join:") else unit
    message = _scheduled(scheduled)
    parts = [text for part in replay.parts.items() for text in part]
    return [replay.letter, *message, unit or f"letter:{replay.letter}", remembered, len(replay.parts), *parts]


def _scheduled(scheduled: Scheduled) -> list[Any]:
    return [scheduled.id, round(scheduled.delay * 1000), scheduled.message.to_json()]


def _ms(seconds: float) -> int | str:
    if seconds in (inf, -inf):
        return "+inf" if seconds > 0 else "-inf"
    return round(seconds * 1000)
