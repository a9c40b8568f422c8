"""The page Stories: finds an order and shows its story along an axis of time; lists stories otherwise."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from choreo.observe.cause import Cause, Weight
from choreo.observe.recent import RecentStory
from choreo.observe.trace import Trace
from choreo.observe.waterfall import Bar, Waterfall, waterfall
from choreo.observe.why_not import WhyNot
from choreo.operate.schedule import Entry
from choreo.operate.stories import PendingStory
from choreo.service import Service
from choreo.web.change import Change
from choreo.web.page import Page
from choreo.web.schedule import changes_of, entries_of, entry_of
from choreo.web.site import Site
from choreo.web.story_row import Row

#: The most lines of a story that are shown unless one asks for all.
LINES = 200
#: The most recent stories, and the most pending stories of one name.
RECENT, PENDING = 50, 50
#: How the state of a story is shown: the class of a chip or a note, and a word.
SIGNS = {
    Weight.DONE: ("good", "done"),
    Weight.WAITING: ("", "waiting"),
    Weight.UNKNOWN: ("warn", "open"),
    Weight.STUCK: ("bad", "stuck"),
}


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    trace: Trace
    waterfall: Waterfall
    #: Why a type of event was not announced, if that was asked as well.
    why: WhyNot | None
    #: The event types of the platform, to choose from.
    types: list[str]
    #: The entries of the schedule behind its lines.
    entries: Mapping[tuple[str, str], Entry]

    @property
    def sign(self) -> tuple[str, str]:
        """How its state is shown."""
        return SIGNS[self.trace.cause.weight]

    def rows(self, site: Site, everything: bool) -> list[Row]:
        """The rows that are shown: without those that only listened, unless everything is asked for."""
        bars = self.waterfall.bars
        shown = bars if everything else [bar for bar in bars if not bar.line.is_noise][:LINES]
        return [Row(bar, self.waterfall.axis, list(self._changes(bar, site))) for bar in shown]

    def _changes(self, bar: Bar, site: Site) -> Iterator[Change]:
        """What a person can do with what a bar shows."""
        entry = entry_of(bar.line, self.entries) if bar.run is None else None
        if entry is not None:
            yield from changes_of(entry, site.link("schedule", entry.id))


@dataclass(frozen=True)
class Declared:
    """A declared story, how often it took which course, and those that have not ended."""

    name: str
    counts: dict[str, int]
    pending: list[PendingStory]
    has_more: bool

    @property
    def overdue(self) -> list[PendingStory]:
        """Those whose deadline has passed."""
        return [story for story in self.pending if story.overdue]

    @property
    def in_time(self) -> list[PendingStory]:
        """The others."""
        return [story for story in self.pending if not story.overdue]


class StoriesPage(Page):
    """Stories: one that was searched for, or the newest and the overdue ones."""

    title = "Stories"
    paths = (r"/stories",)

    async def get(self) -> None:
        """Show the story of ``q``; without ``q`` the list."""
        wanted = self.text("q")
        if not wanted:
            declared, recent = await self.ask(_listed(self.site.app))
            self.show("stories.html", declared_stories=declared, recent=recent, now=time.time())
            return
        found, elsewhere = await self.ask(_searched(self.site.app, wanted, self.text("why")))
        if found is None:
            self.set_status(404)
            self.show("story_unknown.html", wanted=wanted, elsewhere=elsewhere)
            return
        is_whole = self.text("all") == "1"
        self.show("story.html", wanted=wanted, found=found, trace=found.trace, rows=found.rows(self.site, is_whole))


def _searched(app: Service, wanted: str, why: str) -> Callable[[], tuple[Found | None, Cause | None]]:
    def search() -> tuple[Found | None, Cause | None]:
        traces = app.observe.trace(wanted)
        if not traces:
            return None, app.observe.elsewhere("", wanted)
        told = app.observe.why_not(why, wanted) if why else None
        types = [event.type for event in app.observe.map().events]
        entries = entries_of(app, traces[0].story, traces[0].lines)
        return Found(traces[0], waterfall(traces[0]), told, types, entries), None

    return search


def _listed(app: Service) -> Callable[[], tuple[list[Declared], list[RecentStory]]]:
    def look() -> tuple[list[Declared], list[RecentStory]]:
        return [_declared(app, name) for name in app.stories.handlers], app.observe.recent(most=RECENT)

    return look


def _declared(app: Service, name: str) -> Declared:
    page = app.stories.page(name, PENDING)
    counts = {course.replace("_", " "): count for course, count in app.stories.counts(name).items() if count}
    return Declared(name, counts, page.stories, bool(page.after))
