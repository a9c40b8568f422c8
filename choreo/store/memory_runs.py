"""The record of runs, and other things that only watchers read, in memory."""

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter

from choreo.store.memory_content import MemoryPart, locked
from choreo.store.register import MOST_UNHEARD, UnheardType
from choreo.store.runs import Entry, Recording, Run, from_text, is_subject, subject_entry


class MemoryRuns(MemoryPart):
    """See the protocols of `choreo.store` for the guarantees of each method."""

    @property
    def recording(self) -> Recording:
        """What this store records of runs."""
        return self._recording

    def _record(self, handler: str, entries: Sequence[Entry]) -> None:
        drawer, now = self._drawers[handler], self._clock()
        for name, text in entries:
            if name.startswith("runs:"):
                drawer.runs.append(from_text(handler, now, text))
            elif name.startswith("events:"):
                drawer.events[json.loads(text)["id"]] = text
            else:
                drawer.subjects.append((now, *subject_entry(text)))
        oldest = now - self._recording.lifetime.total_seconds()
        while drawer.runs and (len(drawer.runs) > self._recording.length or drawer.runs[0].at < oldest):
            drawer.runs.popleft()
        while len(drawer.events) > self._recording.length:
            del drawer.events[next(iter(drawer.events))]
        while drawer.subjects and (len(drawer.subjects) > self._recording.length or drawer.subjects[0][0] < oldest):
            drawer.subjects.popleft()

    @locked
    def runs(self, handler: str, story: str, subject: str | None = None) -> list[Run]:  # noqa: ARG002
        """The recorded runs of a handler that belong to this story, oldest first."""
        return [run for run in self._drawers[handler].runs if run.story == story]

    @locked
    def stories(self, handler: str, subject: str) -> list[str]:
        """The stories with this subject of which this handler recorded the first event, or a change of subject."""
        drawer = self._drawers[handler]
        first = [(run.at, run.story) for run in drawer.runs if run.is_first and is_subject(run.subject, subject)]
        found = [*first, *((at, story) for at, known, story in drawer.subjects if is_subject(known, subject))]
        return list(dict.fromkeys(story for _, story in sorted(found, key=itemgetter(0))))

    @locked
    def event(self, handler: str, event: str) -> str | None:
        """An event that this handler handled, as JSON; None if it is not kept."""
        return self._drawers[handler].events.get(event)

    @locked
    def story_of(self, handler: str, event: str) -> str | None:
        """The story of an event that this handler handled or announced."""
        return next((run.story for run in self._drawers[handler].runs if run.has_part(event)), None)

    @locked
    def recent(self, handler: str, seconds: float, limit: int = 1000) -> list[Run]:
        """Runs whose outcome was recorded within the last ``seconds``, oldest first."""
        since = self._clock() - seconds
        found = [run for run in self._drawers[handler].runs if run.at >= since]
        return found[-limit:]

    @locked
    def note_unheard(self, source: str, counts: Mapping[str, int]) -> None:
        """Count events that reached no queue."""
        for kind, count in counts.items():
            if kind in self._unheard or len(self._unheard) < MOST_UNHEARD:
                before = self._unheard[kind].count if kind in self._unheard else 0
                self._unheard[kind] = UnheardType(before + count, self._clock(), source)

    @locked
    def unheard(self) -> dict[str, UnheardType]:
        """The types of events that reached no queue, sorted."""
        return dict(sorted(self._unheard.items()))

    @locked
    def note_repair(self, text: str) -> None:
        """Append an entry to the log of repairs."""
        self._repairs.append((self._clock(), text))

    @locked
    def repairs(self, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` entries of the log of repairs, newest first: when each was made, and its text."""
        return list(self._repairs)[: -limit - 1 : -1]
