"""The stories that something happened in lately, as the record of runs tells."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from choreo.store.runs import Result, Run


@dataclass(frozen=True)
class RecentStory:
    """What the newest runs tell of a story."""

    #: The correlation id.
    story: str
    #: Of its first event, as far as that is known.
    subject: str
    #: The types of its events that were handled, oldest first.
    types: list[str] = field(default_factory=list)
    #: The number of runs, and of those that failed: each made a retry or a dead letter.
    runs: int = 0
    failed: int = 0
    #: The handlers that gave up an event of it, oldest first.
    dead: list[str] = field(default_factory=list)
    #: When the last run ended, in seconds since 1970.
    at: float = 0.0


def recent_stories(runs: Iterable[Run], most: int) -> list[RecentStory]:
    """The stories of these runs, of all handlers; the one with the newest run first. ``most``: so many at most."""
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.at, reverse=True):
        if run.story in found or len(found) < most:
            found.setdefault(run.story, []).append(run)
    return [_story(own[::-1]) for own in found.values()]


def _story(runs: list[Run]) -> RecentStory:
    """Of runs of one story, oldest first."""
    first = next((run for run in runs if run.is_first), runs[0])
    return RecentStory(
        first.story,
        first.subject,
        list(dict.fromkeys(run.type for run in runs)),
        len(runs),
        sum(run.result in (Result.RETRY, Result.HELD, Result.DEAD) for run in runs),
        list(dict.fromkeys(run.handler for run in runs if run.result is Result.DEAD)),
        runs[-1].at,
    )
