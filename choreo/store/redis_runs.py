"""Reads the record of runs in Redis. The scripts that commit write it: see settle.lua."""

from collections.abc import Callable, Iterable
from typing import Any

from choreo.redis_client.scripts import Script
from choreo.store.calls import Calls
from choreo.store.runs import SHELVES, Run, from_text, in_order, needle, shelf, subject_entry, subject_needle


class RedisRuns:
    """The record of runs in Redis. ``key_of`` is a callback: it returns the key of a handler with this ending."""

    def __init__(self, calls: Calls, key_of: Callable[[str, str], str]) -> None:
        self._calls, self._key_of = calls, key_of

    def runs(self, handler: str, story: str) -> list[Run]:
        """The recorded runs of a handler that belong to this story, oldest first."""
        found = self._find(handler, f"runs:{shelf(story)}", needle(story))
        return [run for run in _readable(handler, found) if run.story == story]

    def stories(self, handler: str, subject: str) -> list[str]:
        """The stories with this subject of which this handler recorded the first event, or a change of subject."""
        found = self._calls.run(
            Script.load("store/find_runs"),
            [self._key_of(handler, f"subjects:{shelf(subject)}")],
            [subject_needle(subject)],
        )
        pairs = [subject_entry(text) for text in found[1::2]]
        return list(dict.fromkeys(story for known, story in pairs if known == subject))

    def story_of(self, handler: str, event: str) -> str | None:
        """The story of an event that this handler handled or announced."""
        for number in range(SHELVES):
            for run in _readable(handler, self._find(handler, f"runs:{number}", needle(event))):
                if run.has_part(event):
                    return run.story
        return None

    def recent(self, handler: str, seconds: float, limit: int = 1000) -> list[Run]:
        """Runs whose outcome was recorded within the last ``seconds``, oldest first."""
        keys = [self._key_of(handler, f"runs:{number}") for number in range(SHELVES)]
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

    def _find(self, handler: str, ending: str, text: str) -> Iterable[tuple[bytes, bytes]]:
        answer = self._calls.run(Script.load("store/find_runs"), [self._key_of(handler, ending)], [text])
        return zip(answer[::2], answer[1::2], strict=True)


def _readable(handler: str, found: Iterable[tuple[Any, Any]]) -> Iterable[Run]:
    """The runs in these entries. An entry of a later version of choreo, which this one cannot read, is left out."""
    for number, text in found:
        try:
            yield from_text(handler, int(bytes(number).partition(b"-")[0]) / 1000, text)
        except ValueError:
            continue
