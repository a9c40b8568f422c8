"""Reads the record of runs in Redis. The scripts that commit write it: see settle.lua."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from operator import itemgetter
from time import monotonic
from typing import Any

from choreo.redis_client.scripts import Script
from choreo.store.redis_part import RedisPart
from choreo.store.runs import (
    SHELVES,
    Run,
    from_text,
    in_order,
    is_subject,
    needle,
    needle_of_event,
    needle_of_subject,
    shelf,
    subject_entry,
)


class Tending:
    """
    Says when a commit is to renew the lifetime of a list of the record, and to remove what is older: see settle.lua.

    That takes Redis as long as the entry itself. So each process does it eight times in a ``lifetime`` (seconds) for
    each list: often enough that the list of a handler with few events does not end with the entries of today.
    """

    def __init__(self, lifetime: float) -> None:
        self._seconds = lifetime / 8
        self._next: dict[tuple[str, str], float] = {}

    def marked(self, handler: str, name: str) -> str:
        """The name of a list as an argument of settle.lua: with a mark, if the list is to be tended now."""
        now = monotonic()
        if now < self._next.get((handler, name), 0.0):
            return name
        self._next[handler, name] = now + self._seconds
        return name + "!"


class RedisRuns(RedisPart):
    """See `choreo.store.runs` for the methods."""

    def runs(self, handler: str, story: str, subject: str | None = None) -> list[Run]:
        """The recorded runs of a handler that belong to this story, oldest first."""
        shelves = range(SHELVES) if subject is None else sorted({shelf(story), shelf(subject)})
        return in_order(run for run in self._found(handler, shelves, needle(story)) if run.story == story)

    def stories(self, handler: str, subject: str) -> list[str]:
        """The stories with this subject of which this handler recorded the first event, or a change of subject."""
        text = needle_of_subject(subject)
        runs = self._found(handler, [shelf(subject)], text)
        first = [(run.at, run.story) for run in runs if run.is_first and is_subject(run.subject, subject)]
        entries = self._find_runs(handler, f"subjects:{shelf(subject)}", text)
        found = [*first, *_changes(entries, subject)]
        return list(dict.fromkeys(story for _, story in sorted(found, key=itemgetter(0))))

    def story_of(self, handler: str, event: str) -> str | None:
        """The story of an event that this handler handled or announced."""
        runs = self._found(handler, range(SHELVES), needle(event))
        return next((run.story for run in runs if run.has_part(event)), None)

    def event(self, handler: str, event: str) -> str | None:
        """An event that this handler handled, as JSON; None if it is not kept."""
        found = self._find_runs(handler, f"events:{shelf(event)}", needle_of_event(event))
        texts = [text.decode(errors="replace") for _, text in found]
        # The data of another event may contain the same text.
        return next((text for text in reversed(texts) if json.loads(text).get("id") == event), None)

    def recent(self, handler: str, seconds: float, limit: int = 1000) -> list[Run]:
        """Runs whose outcome was recorded within the last ``seconds``, oldest first."""
        keys = [self._key(handler, f"runs:{number}") for number in range(SHELVES)]
        since = f"{max(self._calls.time(keys[0]) - seconds, 0) * 1000:.0f}"
        each = max(limit // SHELVES, 1)

        def read(client: Any) -> list[Any]:
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.xrevrange(key, "+", since, count=each)
                return list(pipeline.execute(raise_on_error=False))

        answers = [answer for answer in self._calls.ask(read) if not isinstance(answer, Exception)]
        found = ((number, fields.get(b"", b"")) for answer in answers for number, fields in answer)
        return in_order(_readable(handler, found))

    def _found(self, handler: str, shelves: Iterable[int], text: str) -> Iterator[Run]:
        for number in shelves:
            yield from _readable(handler, self._find_runs(handler, f"runs:{number}", text))

    def _find_runs(self, handler: str, ending: str, text: str) -> Iterable[tuple[bytes, bytes]]:
        answer = self._calls.run(Script.load("store/find_runs"), [self._key(handler, ending)], [text])
        return zip(answer[::2], answer[1::2], strict=True)


def _readable(handler: str, found: Iterable[tuple[Any, Any]]) -> Iterator[Run]:
    """The runs in these entries. An entry of a later version of choreo, which this one cannot read, is left out."""
    for number, text in found:
        try:
            yield from_text(handler, time_of(number), text)
        except ValueError:
            continue


def _changes(found: Iterable[tuple[Any, Any]], subject: str) -> Iterator[tuple[float, str]]:
    """The times and stories in the entries of this subject. What cannot be read is left out, as above."""
    for number, text in found:
        with suppress(ValueError):
            known, story = subject_entry(text)
            if is_subject(known, subject):
                yield time_of(number), story


def time_of(number: Any) -> float:
    """The time at which an entry of a stream was made, in seconds since 1970."""
    return int(bytes(number).partition(b"-")[0]) / 1000
