"""Pending stories: lists them, counts how they ended, and forgets one by hand."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from choreo.durations import moment_of
from choreo.errors import JoinError, StoryError
from choreo.operate.joins import PAGE, Arrived, Joins, is_cursor
from choreo.printing import json_line
from choreo.store import JoinState, Store
from choreo.store.parts import key_of, unit_of, unpacked

#: The counters of a story: see `Stories.counts`.
COUNTERS = ("ended_in_time", "ended_late", "overdue", "abandoned", "unbegun")


@dataclass(frozen=True, slots=True)
class PendingStory:
    """A story that has not ended yet. A snapshot: it does not change when the story does."""

    #: The name of its handler: ``<service>.<story>``.
    handler: str
    #: The key: the subject of the events, or the value of their key field.
    key: str
    #: The events that have come, in the order of their arrival. They have no data.
    arrived: tuple[Arrived, ...]
    #: The types of the steps that have not come.
    missing: tuple[str, ...]
    #: The types of the events that would end the story.
    ends: tuple[str, ...]
    #: The number of steps that have come, the beginning included.
    step: int
    #: The number of all steps, the beginning and the end included.
    steps: int
    #: When the story began: the time of the event that begins it, in UTC. None if only other events have come.
    since: datetime | None
    #: The deadline, in UTC by the store's clock.
    until: datetime
    #: The time since the deadline. Zero if it has not passed.
    overdue_by: timedelta
    #: True if the story has begun, and its deadline has passed.
    overdue: bool

    @property
    def service(self) -> str:
        """The service that declares the story."""
        return self.handler.partition(".")[0]

    @property
    def name(self) -> str:
        """The name of the story, as it is declared."""
        return self.handler.partition(".")[2]

    @property
    def waits_for(self) -> str:
        """The steps that have not come; if all have, the events that would end the story."""
        return ", ".join(self.missing) or " or ".join(self.ends)

    def to_json(self) -> str:
        """Return the story as one JSON object. Times are ISO 8601."""
        record = {
            "service": self.service,
            "story": self.name,
            "key": self.key,
            "step": self.step,
            "steps": self.steps,
            "arrived": [
                {"type": one.envelope.type, "time": one.envelope.time.isoformat(), "at": one.at.isoformat()}
                | {"id": one.envelope.id, "source": one.envelope.source, "counts": one.counts}
                for one in self.arrived
            ],
            "missing": list(self.missing),
            "ends": list(self.ends),
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat(),
            "overdue": self.overdue,
            "overdue_seconds": round(self.overdue_by.total_seconds(), 3) if self.overdue else 0,
        }
        return json_line(record)


@dataclass(frozen=True, slots=True)
class StoryPage:
    """A page of pending stories, overdue ones first, then by deadline."""

    stories: list[PendingStory] = field(default_factory=list)
    #: The cursor of the next page, an argument of `Stories.page`. '' on the last page.
    after: str = ""


class Stories:
    """
    The pending stories of every service that uses one store. Its methods raise `StoreError` when the store is away.

    A story is known once a worker of its service has started. ``joins`` settles a story by hand: to the store, a story
    is a join.
    """

    def __init__(self, store: Store, joins: Joins) -> None:
        self._store, self._joins = store, joins

    @property
    def handlers(self) -> list[str]:
        """Every story that is, or once was, declared: ``<service>.<story>``."""
        return list(self._descriptions())

    def named(self, *names: str) -> list[str]:
        """Those of `handlers` that a name means: of a story, ``<service>.<story>``, or of a service. No name: all."""
        return [known for known in self.handlers if not names or {known, *known.split(".", 1)} & set(names)]

    def __iter__(self) -> Iterator[PendingStory]:
        """Iterate over all pending stories, name by name, overdue ones first. Reads a page at a time."""
        for handler in self.handlers:
            yield from self.of(handler)

    def of(self, name: str) -> Iterator[PendingStory]:
        """Iterate over the pending stories of one name, overdue ones first. Reads a page at a time."""
        for handler in self._known(name):
            after = ""
            while True:
                page = self.page(handler, PAGE, after)
                yield from page.stories
                after = page.after
                if not after:
                    break

    def page(self, handler: str, limit: int = PAGE, after: str = "") -> StoryPage:
        """
        Return up to ``limit`` pending stories of one handler. ``after`` is `StoryPage.after`.

        A page can be shorter: keys of which only later events have come are left out. The next page may miss stories
        that begin, or end, while pages are read. Raises `StoryError` for an ``after`` that is no cursor.
        """
        if after and not is_cursor(after):
            raise StoryError(f"{after!r} is no place in a list of stories. The list before ends with the next place.")
        description, now = self._descriptions().get(handler, {}), self._store.now()
        units, cursor = self._store.pending(handler, limit, after)
        seen = [self._store.look(handler, unit) for unit in units]
        found = [_pending(handler, state, description, now) for state in seen if state is not None]
        return StoryPage([story for story in found if story.since is not None], cursor)

    def find(self, key: str, name: str | None = None) -> list[PendingStory]:
        """Return the pending stories with this key: at most one of each name. Also one that has not begun."""
        descriptions, now = self._descriptions(), self._store.now()
        found = []
        for handler in descriptions if name is None else self._known(name):
            state = self._store.look(handler, unit_of(key))
            if state is not None:
                found.append(_pending(handler, state, descriptions[handler], now))
        return found

    def get(self, key: str, name: str | None = None) -> PendingStory:
        """Return the pending story with this key. Raises `StoryError` when there is none, or more than one."""
        found = self.find(key, name)
        if len(found) == 1:
            return found[0]
        if found:
            raise StoryError(
                f"{key!r} has {len(found)} pending stories: {', '.join(s.handler for s in found)}. Name one."
            )
        whose = f"{key!r} has no pending story {name}" if name else f"{key!r} has no pending story"
        raise StoryError(
            f"{whose}: it has ended, was forgotten or never began. `choreo stories list` shows all of them."
        )

    def counts(self, name: str) -> dict[str, int]:
        """
        Return how often a story took each course, since its first worker started.

        "ended_in_time", "ended_late": by the times of its events. "overdue": it was announced as overdue. "abandoned":
        an overdue one that has not ended for 30 days, and is not kept any longer. "unbegun": other events of the
        story came, and none that begins it until the deadline.
        """
        counts = dict.fromkeys(COUNTERS, 0)
        for handler in self._known(name):
            tally = self._store.tally(handler)
            counts = {counter: count + tally.get(counter, 0) for counter, count in counts.items()}
        return counts

    def forget(self, key: str, reason: str, name: str | None = None) -> PendingStory:
        """
        Forget a story: it is not announced as overdue, counts nowhere, and ignores later events of its key.

        Returns the story, and logs it with the reason. Raises `StoryError` when there is no such story, or a worker
        works on it at the moment.
        """
        story = self.get(key, name)
        try:
            self._joins.cancel(key, reason, story.handler)
        except JoinError as error:
            raise StoryError(str(error)) from error
        return story

    def _known(self, name: str) -> list[str]:
        known = self.named(name)
        if not known:
            raise StoryError(f"No story {name!r} is known. Known are: {', '.join(self.handlers) or 'none'}.")
        return known

    def _descriptions(self) -> dict[str, Mapping[str, Any]]:
        described = {handler: json.loads(text) for handler, text in self._store.joins().items()}
        return {handler: description for handler, description in described.items() if "story" in description}


def _pending(handler: str, state: JoinState, description: Mapping[str, Any], now: float) -> PendingStory:
    story = description.get("story") or {"begins": [], "steps": [], "ends": []}
    envelopes, times = unpacked(state.parts), list(state.arrived.values())
    here = {envelope.type for envelope in envelopes}
    began = [envelope.time for envelope in envelopes if envelope.type in story["begins"]]
    until = _deadline(state, times, description)
    return PendingStory(
        handler=handler,
        key=key_of(state.unit) or state.unit,
        arrived=tuple(
            Arrived(envelope, moment_of(at), counts=envelope.type in description.get("parts", ()))
            for envelope, at in zip(envelopes, times, strict=True)
        ),
        missing=tuple(kind for kind in story["steps"] if kind not in here),
        ends=tuple(story["ends"]),
        step=bool(began) + sum(kind in here for kind in story["steps"]),
        steps=len(story["steps"]) + 2,
        since=min(began, default=None),
        until=moment_of(until),
        overdue_by=timedelta(seconds=max(now - until, 0.0)),
        overdue=bool(began) and (state.is_overdue or now > until),
    )


def _deadline(state: JoinState, times: list[float], description: Mapping[str, Any]) -> float:
    """The deadline, in seconds since 1970. Once its signal was sent, the store has the time of sending instead."""
    if not state.is_overdue or not times:
        return state.deadline
    return min(state.deadline, min(times) + float(description.get("within", 0)))
