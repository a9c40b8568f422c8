"""Entries of the schedule, which the page of a story lets a person hurry or drop."""

from collections.abc import Iterable, Mapping

from choreo.observe.open_end import Kind
from choreo.observe.trace import Line
from choreo.operate.schedule import Entry
from choreo.service import Service
from choreo.web.change import Change
from choreo.web.page import Page

#: What waits in the schedule: see `OpenEnd.kind`.
_LATER = (Kind.RETRY, Kind.LATER)


class EntryPage(Page):
    """One entry of the schedule. It has no page to look at: the story shows it."""

    title = "Stories"
    paths = (r"/schedule/([0-9a-f]{10})",)

    async def get(self, entry_id: str) -> None:
        """Lead to the story of the entry."""
        entry = await self.ask(lambda: self.site.app.schedule.get(entry_id))
        self.redirect(self.site.link("stories", q=entry.subject or None))

    async def post(self, entry_id: str) -> None:
        """Let the entry fall due now, or drop it: ``do``."""
        reason, do, schedule = self.reason(), self.text("do"), self.site.app.schedule
        if do == "now":
            entry = await self.ask(lambda: schedule.now(entry_id, reason, self.actor))
            told = f"{entry.handler} {entry.subject}: it is due now."
        elif do == "drop":
            dropped = await self.ask(lambda: schedule.drop(entry_id, reason, self.actor))
            entry, letter = dropped.entry, dropped.letter
            kept = f"; its event is dead letter {letter.id}" if letter else ", and its event is not announced"
            told = f"{entry.handler} {entry.subject}: dropped{kept}."
        else:
            self.refuse("Say what to do with the entry: now or drop.")
        self.changed(told, self.site.link("stories", q=entry.subject or None), reason=reason)


def entries_of(app: Service, story: str, lines: Iterable[Line]) -> Mapping[tuple[str, str], Entry]:
    """The entries of the schedule behind the lines of a story, by their handler and event. Raises `StoreError`."""
    if not any(_is_later(line) for line in lines):
        return {}
    found = app.schedule.find(story)
    return {(entry.handler, entry.event.id): entry for entry in found if entry.event is not None}


def entry_of(line: Line, entries: Mapping[tuple[str, str], Entry]) -> Entry | None:
    """The entry behind a line of a story."""
    end = line.to_announce if line.step is None else line.step.end
    return None if end is None or end.kind not in _LATER else entries.get((end.handler, line.event.id))


def changes_of(entry: Entry, action: str) -> Iterable[Change]:
    """What a person can do with an entry."""
    command = ("choreo", "schedule")
    what = "attempt" if entry.attempt else "event"
    now = f"The {what} is due now, and not at {entry.due:%H:%M:%S}."
    yield Change("Now", action, (*command, "now", entry.id, "--reason", "REASON"), now, {"do": "now"})
    if entry.is_droppable:
        told = (
            "No further attempt is made: the event becomes a dead letter, which can be replayed or discarded."
            if entry.attempt
            else "The event is not announced, and is kept nowhere."
        )
        drop = (*command, "drop", entry.id, "--reason", "REASON")
        yield Change("Drop", action, drop, told, {"do": "drop"}, is_final=True)


def _is_later(line: Line) -> bool:
    end = line.to_announce if line.step is None else line.step.end
    return end is not None and end.kind in _LATER
