"""The tracer: makes the trace of one story from what is known of it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from choreo.cached import cached_property
from choreo.events.naming import OWN_TYPES
from choreo.observe.cause import Cause, Weight, command, heaviest
from choreo.observe.evidence import Evidence, KnownEvent
from choreo.observe.judge import Judge
from choreo.observe.likeness import alike
from choreo.observe.loops import loops_in
from choreo.observe.map import Hearer
from choreo.observe.open_end import Kind, OpenEnd
from choreo.observe.trace import Line, Step, Trace
from choreo.observe.walk import Walk
from choreo.observe.words import counted, span
from choreo.store.runs import Result, Run

#: How a run ended that needs a word in the headline.
_ENDINGS = {
    Result.CANCELLED: "was cancelled by {type}",
    Result.CANCELLED_BY_HAND: "was cancelled by hand: {detail}",
    Result.TIMED_OUT: "timed out",
    Result.FIRED: "was fired by hand",
}
_END_IT = ("# deploy a version of one of their handlers that does not announce it again", "choreo top")


class Tracer:
    """Makes the trace of one story from the evidence."""

    def __init__(self, evidence: Evidence, story: str) -> None:
        self._evidence, self._story = evidence, story
        self._runs, self._ends = evidence.of_story(story)
        self._judge = Judge(evidence)
        #: Event id → the runs that it took part in, and its open ends. A story may have thousands of either.
        self._runs_with: dict[str, list[Run]] = defaultdict(list)
        self._ends_with: dict[str, list[OpenEnd]] = defaultdict(list)
        for run in self._runs:
            for event_id in dict.fromkeys(_events_of(run)):
                self._runs_with[event_id].append(run)
        for end in self._ends:
            for event_id in dict.fromkeys(_ids(end)):
                self._ends_with[event_id].append(end)
        self._steps = {event.id: list(self._steps_of(event)) for event in self._events()}

    def trace(self, others: Sequence[str] = ()) -> Trace:
        """The trace."""
        return Trace(
            self._evidence.what,
            self._evidence.read_as,
            self._story,
            self._evidence.now,
            list(self._lines()),
            self._cause(),
            [end for end in self._ends if end.kind is Kind.JOIN],
            others,
            self._evidence.notes,
        )

    def _events(self) -> list[KnownEvent]:
        own = {run.event for run in self._runs} | {event.id for end in self._ends for event in end.events}
        own |= {event_id for run in self._runs for _, event_id in (*run.announced, *run.parts)}
        found = [event for event in self._evidence.events.values() if event.id in own and not self._is_idle(event)]
        return sorted(found, key=lambda event: (event.at is None, event.at or 0.0))

    def _is_idle(self, event: KnownEvent) -> bool:
        """True for an alert that no handler hears. What it tells of is in the trace itself."""
        if event.type not in OWN_TYPES:
            return False
        mapped = self._evidence.map.event(event.type)
        return (mapped is None or mapped.is_unheard) and not self._evidence.map.hears_wildly(event.type)

    # -- the tree --------------------------------------------------------------------------------------------------

    def _steps_of(self, event: KnownEvent) -> Iterator[Step]:
        """What became of an event at each handler that heard it, or should have."""
        mapped = self._evidence.map.event(event.type)
        hearers = {hearer.name: hearer for hearer in mapped.heard_by} if mapped else {}
        names = [run.handler for run in self._runs_with.get(event.id, ())]
        names += [end.handler for end in self._ends_with.get(event.id, ()) if not end.is_announcement]
        steps = [self._step(name, event, hearers.get(name)) for name in dict.fromkeys([*names, *hearers])]
        yield from sorted((step for step in steps if step is not None), key=lambda step: step.at or float("inf"))

    def _step(self, handler: str, event: KnownEvent, hearer: Hearer | None) -> Step | None:
        found = [run for run in self._runs_with.get(event.id, ()) if run.handler == handler]
        runs = [run for run in found if run.event == event.id]
        ends = [end for end in self._ends_with.get(event.id, ()) if end.handler == handler]
        end = min(ends, key=lambda end: end.kind is Kind.JOIN, default=None)
        joined = found[-1] if found and not runs else None
        is_wild = hearer is not None and hearer.is_wildcard
        if end is not None:
            return Step(handler, event, runs, end, self._judge.of(end), joined, is_wild, gone=self._evidence.gone)
        if runs or joined is not None:
            is_watching = self._is_watching(handler, runs, joined)
            gone = self._evidence.gone
            return Step(handler, event, runs, joined=joined, is_wildcard=is_wild, is_watching=is_watching, gone=gone)
        if hearer is None or hearer.how != "on" or self._announcement(event) is not None:
            return None
        unseen = self._judge.unseen(handler, self._evidence.map.event(event.type), event.at)
        return Step(handler, event, cause=unseen, is_wildcard=is_wild)

    def _is_watching(self, handler: str, runs: Sequence[Run], joined: Run | None) -> bool:
        """True for a declared story, and for an effect that stands, since an event has made it final."""
        if self._evidence.is_undo(handler):
            return all(run.result is Result.CANCELLED for run in (*runs, *([joined] if joined else ())))
        return self._evidence.is_declared_story(handler) and all(run.result is Result.DONE for run in runs)

    def _announcement(self, event: KnownEvent) -> OpenEnd | None:
        """The open end of an event that waits to be announced."""
        waiting = (end for end in self._ends_with.get(event.id, ()) if end.is_announcement)
        return next((end for end in waiting if end.event.id == event.id), None)

    def _lines(self) -> Iterator[Line]:
        """The lines of the tree: an event, below it its handlers, below these the events that they announced."""
        events = {event.id: event for event in self._events()}
        caused = {event_id for run in self._runs for _, event_id in run.announced if event_id in events}
        seen: set[str] = set()
        # A stack, and no recursion: a story may have thousands of events in a row.
        stack = [Line(0, event) for event in reversed(events.values()) if event.id not in caused]
        rest = [Line(0, event) for event in reversed(events.values()) if event.id in caused]
        for first in (stack, rest):
            while first:
                line = first.pop()
                if line.step is None:
                    if line.event.id in seen:
                        continue
                    seen.add(line.event.id)
                    below = [Line(line.depth + 1, line.event, step) for step in self._steps.get(line.event.id, ())]
                else:
                    ids = dict.fromkeys(event_id for run in line.step.runs for _, event_id in run.announced)
                    below = [Line(line.depth + 1, events[one]) for one in ids if one in events]
                to_announce = self._announcement(line.event) if line.step is None else None
                yield replace(line, is_unheard=self._is_unheard(line), to_announce=to_announce)
                first.extend(reversed(below))

    def _is_unheard(self, line: Line) -> bool:
        mapped = self._evidence.map.event(line.event.type)
        return line.step is None and mapped is not None and mapped.is_unheard

    # -- the headline ----------------------------------------------------------------------------------------------

    def _cause(self) -> Cause:
        steps = [step for steps in self._steps.values() for step in steps]
        causes = [self._judge.of(end) for end in self._ends if end.kind is not Kind.JOIN]
        # Of a handler of which nothing is known, only what is on the broker tells that it is still to run.
        causes += [step.cause for step in steps if step.cause and step.end is None and step.cause.name != "unknown"]
        causes += [self._waits(end) for end in self._ends if end.kind is Kind.JOIN]
        causes += self._misspelled()
        if self._loops and any(cause.weight is Weight.WAITING for cause in causes):
            return Cause("loop", f"{self._loops}, and it goes on", _END_IT, since=self._runs[0].at)
        return heaviest(causes) or self._done(sum(step.end is None and step.cause is not None for step in steps))

    def _misspelled(self) -> Iterator[Cause]:
        """Types that no handler hears by name, and that are perhaps misspellings of one that is not in this story."""
        types = dict.fromkeys(event.type for event in self._events())
        heard = {event.type for event in self._evidence.map.events if event.by_name}
        for kind in types if heard else ():
            like = "" if kind in heard else alike(kind, heard)
            if like and like not in types:
                who = "only patterns hear" if self._evidence.map.hears_wildly(kind) else "nobody hears"
                yield Cause("misspelling", f"{who} {kind}; {like}?", (command("choreo", "map", kind),), Weight.UNKNOWN)

    @cached_property
    def _loops(self) -> str:
        """The loops of the story, for people; "" if there is none."""
        found = [f"{loop.events} events in a loop of {' <-> '.join(loop.types)}" for loop in loops_in(self._runs)]
        return "; ".join(found)

    def _waits(self, end: OpenEnd) -> Cause:
        """Why a join waits: the cause of the part that is missing."""
        own = self._judge.of(end)
        if end.join is None or end.join.complete or own.weight is not Weight.UNKNOWN:
            return own
        walk = Walk(self._evidence)
        causes = [walk.of(part.type) for part in end.join.missing]
        cause = heaviest([one for one in causes if one.weight is not Weight.DONE]) or own
        return own if cause.weight is Weight.UNKNOWN else cause

    def _done(self, unknown: int) -> Cause:
        last = max((run.at for run in self._runs), default=self._evidence.now)
        began = min((event.at for event in self._events() if event.at), default=last)
        endings = [
            f"{run.handler} {_ENDINGS[run.result].format(type=run.type, detail=run.detail)}"
            for run in self._runs
            if run.result in _ENDINGS and not self._has_run_since(run) and not self._evidence.is_undo(run.handler)
        ]
        endings += [f"{name} failed for good, and its dead letter is gone" for name in self._lost()]
        text = "; ".join([f"done in {span(last - began)}", *dict.fromkeys(endings)])
        if self._loops:
            text += f"; {self._loops}"
        if unknown:
            text += f"; of {counted(unknown, 'step')} nothing is known"
        return Cause("done", text, (), Weight.DONE, last)

    def _has_run_since(self, ended: Run) -> bool:
        """True if a join that ended was run again, with the same events or about the same subject."""
        parts = {event_id for _, event_id in ended.parts}
        return any(
            run.handler == ended.handler
            and (parts & {event_id for _, event_id in run.parts} or run.subject == ended.subject)
            for run in self._runs[self._runs.index(ended) + 1 :]
        )

    def _lost(self) -> Iterator[str]:
        """The handlers whose dead letter was discarded: it is gone, and nothing came after it."""
        for step in (step for steps in self._steps.values() for step in steps):
            if step.end is None and step.runs and step.runs[-1].letter in self._evidence.gone:
                yield step.handler


def _events_of(run: Run) -> list[str]:
    return [run.event, *(event_id for _, event_id in run.parts)]


def _ids(end: OpenEnd) -> list[str]:
    return [event.id for event in end.events]
