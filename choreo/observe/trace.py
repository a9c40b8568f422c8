"""Traces: the story of one order, as a tree of events and of what became of each of them."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from choreo.observe.causes import Cause, Judge, Weight, heaviest
from choreo.observe.evidence import Evidence, KnownEvent
from choreo.observe.map import Hearer
from choreo.observe.open_end import Kind, OpenEnd
from choreo.observe.why_not import Walk
from choreo.observe.words import counted, span
from choreo.printing import one_line
from choreo.store.runs import Result, Run

#: How a run ended that needs a word in the headline.
_ENDINGS = {
    Result.CANCELLED: "was cancelled by {type}",
    Result.CANCELLED_BY_HAND: "was cancelled by hand: {detail}",
    Result.TIMED_OUT: "timed out",
    Result.FIRED: "was fired by hand",
}
#: Events of a story from which on it is called a loop.
MANY = 200


@dataclass(frozen=True)
class Step:
    """What one handler did with one event, or is still to do."""

    handler: str
    event: KnownEvent
    #: Its attempts, oldest first. For a join: the run that this event completed or ended.
    runs: Sequence[Run] = ()
    #: What is still to be done; None if nothing is.
    end: OpenEnd | None = None
    #: Why it is still to be done.
    cause: Cause | None = None
    #: The run of a join that this event was a part of, and that another event completed or ended.
    joined: Run | None = None
    #: True if the handler hears the event by a pattern, and not by its type.
    is_wildcard: bool = False
    #: True if it follows a declared story, and that is fine so far.
    is_watching: bool = False

    @property
    def is_quiet(self) -> bool:
        """True if the handler is done with the event at the first attempt, and announced nothing."""
        runs = self.runs
        is_done = len(runs) == 1 and runs[0].result is Result.DONE and runs[0].attempt == 1 and not runs[0].announced
        return is_done and self.end is None

    @property
    def at(self) -> float | None:
        """When its first attempt ended, or is known to wait."""
        return self.runs[0].at if self.runs else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        end = self.end
        return {
            "handler": self.handler,
            "runs": [_run(run) for run in self.runs],
            "open": None if end is None else {"kind": end.kind, "attempt": end.attempt, "due": end.due} | _more(end),
            "cause": None if self.cause is None else self.cause.text,
            "do": None if self.cause is None else self.cause.do,
            "joined_with": None if self.joined is None else self.joined.event,
        }


@dataclass(frozen=True)
class Line:
    """A line of the tree: an event, or what a handler did with it."""

    #: How many events and handlers are above it.
    depth: int
    event: KnownEvent
    #: None: the line is about the event itself.
    step: Step | None = None


@dataclass(frozen=True)
class Trace:
    """The story of a subject, or of an event."""

    what: str
    #: "subject", "event", "dead letter" or "story".
    read_as: str
    story: str
    now: float
    lines: Sequence[Line]
    #: Why it is not done, or that it is.
    cause: Cause
    #: The joins that wait.
    waiting: Sequence[OpenEnd] = ()
    #: Other stories of the same subject, newest first.
    others: Sequence[str] = ()
    #: What was not looked at, in words.
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def began(self) -> float | None:
        """When the first event was announced."""
        return min((line.event.at for line in self.lines if line.event.at), default=None)

    @property
    def is_done(self) -> bool:
        """True if nothing is left to do, as far as it is known."""
        return self.cause.weight is Weight.DONE

    def headline(self) -> str:
        """In what state the story is, in one sentence."""
        weight, since = self.cause.weight, self.cause.since
        if weight is Weight.DONE:
            return f"{one_line(self.what)}  {self.cause.text}"
        word = {Weight.WAITING: "waiting", Weight.UNKNOWN: "open", Weight.STUCK: "STUCK"}[weight]
        length = f" for {span(self.now - since)}" if since and weight is not Weight.WAITING else ""
        return f"{one_line(self.what)}  {word}{length}: {self.cause.text}"

    def to_json(self, *, data: bool = False) -> str:
        """As one JSON object. ``data``: with the fields of the events, where they are still known."""
        text = json.dumps(self.to_dict(data=data), ensure_ascii=False, default=str)
        return text if text.isprintable() else json.dumps(self.to_dict(data=data), default=str)

    def to_dict(self, *, data: bool = False) -> dict[str, Any]:
        """As JSON. ``data``: with the fields of the events, where they are still known."""
        steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in self.lines:
            if line.step is not None:
                steps[line.event.id].append(line.step.to_dict())
        return {
            "what": self.what,
            "read_as": self.read_as,
            "story": self.story,
            "state": self.cause.weight.name.lower(),
            "cause": {"name": self.cause.name, "text": self.cause.text, "do": self.cause.do, "since": self.cause.since},
            "events": [
                _event(line.event, data=data) | {"depth": line.depth, "steps": steps.get(line.event.id, [])}
                for line in self.lines
                if line.step is None
            ],
            "other_stories": list(self.others),
            "notes": list(self.notes),
        }


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
        found = [event for event in self._evidence.events.values() if event.id in own]
        return sorted(found, key=lambda event: (event.at is None, event.at or 0.0))

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
            return Step(handler, event, runs, end, self._judge.of(end), joined, is_wild)
        if runs or joined is not None:
            is_watching = self._evidence.is_declared_story(handler) and all(run.result is Result.DONE for run in runs)
            return Step(handler, event, runs, joined=joined, is_wildcard=is_wild, is_watching=is_watching)
        if hearer is None or hearer.how != "on" or not self._is_out(event):
            return None
        unseen = self._judge.unseen(handler, self._evidence.map.event(event.type), event.at)
        return Step(handler, event, cause=unseen, is_wildcard=is_wild)

    def _is_out(self, event: KnownEvent) -> bool:
        """False for an event that waits to be announced."""
        return not any(end.is_announcement and end.event.id == event.id for end in self._ends_with.get(event.id, ()))

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
                yield line
                first.extend(reversed(below))

    # -- the headline ----------------------------------------------------------------------------------------------

    def _cause(self) -> Cause:
        steps = [step for steps in self._steps.values() for step in steps]
        causes = [self._judge.of(end) for end in self._ends if end.kind is not Kind.JOIN]
        # Of a handler of which nothing is known, only what is on the broker tells that it is still to run.
        causes += [step.cause for step in steps if step.cause and step.end is None and step.cause.name != "unknown"]
        causes += [self._waits(end) for end in self._ends if end.kind is Kind.JOIN]
        return heaviest(causes) or self._done(sum(step.end is None and step.cause is not None for step in steps))

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
            if run.result in _ENDINGS
        ]
        text = "; ".join([f"done in {span(last - began)}", *dict.fromkeys(endings)])
        if len(self._steps) >= MANY:
            text += f"; {counted(len(self._steps), 'event')}: a loop? choreo top"
        if unknown:
            text += f"; of {counted(unknown, 'step')} nothing is known"
        return Cause("done", text, "", Weight.DONE, last)


def _events_of(run: Run) -> list[str]:
    return [run.event, *(event_id for _, event_id in run.parts)]


def _ids(end: OpenEnd) -> list[str]:
    return [event.id for event in end.events]


def _event(event: KnownEvent, *, data: bool) -> dict[str, Any]:
    told = {
        "id": event.id,
        "type": event.type,
        "subject": event.subject,
        "source": event.source,
        "at": event.at,
        "caused_by": event.cause,
    }
    return told | {"data": event.data} if data else told


def _run(run: Run) -> dict[str, Any]:
    return {
        "at": run.at,
        "attempt": run.attempt,
        "result": run.result,
        "waited": run.waited,
        "took": run.took,
        "worker": run.worker,
        "announced": [{"type": kind, "id": event_id} for kind, event_id in run.announced],
        "parts": [{"type": kind, "id": event_id} for kind, event_id in run.parts],
        "detail": run.detail,
    }


def _more(end: OpenEnd) -> dict[str, Any]:
    message = end.message
    more: dict[str, Any] = {}
    if message is not None:
        more |= {"position": message.position, "count": message.count, "returned": message.returned}
        more |= {"host": message.host, "pid": message.pid} if message.pid else {}
    if end.unit is not None:
        more["begun"] = end.unit.begun
    if end.letter is not None:
        more |= {"letter": end.letter.id, "error": end.letter.error, "reason": end.letter.reason}
    if end.join is not None:
        more |= {"key": end.join.key, "missing": [str(part) for part in end.join.missing]}
    return more
