"""Traces: the story of one order, as a tree of events and of what became of each of them."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from choreo.observe.cause import Cause, Weight
from choreo.observe.evidence import KnownEvent
from choreo.observe.open_end import OpenEnd
from choreo.observe.words import span
from choreo.printing import one_line
from choreo.store.runs import Result, Run


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
            "do": [] if self.cause is None else list(self.cause.do),
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
    #: True if no handler hears the event.
    is_unheard: bool = False


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
        do = list(self.cause.do)
        for line in self.lines:
            if line.step is not None:
                steps[line.event.id].append(line.step.to_dict())
        return {
            "what": self.what,
            "read_as": self.read_as,
            "story": self.story,
            "state": self.cause.weight.name.lower(),
            "cause": {"name": self.cause.name, "text": self.cause.text, "do": do, "since": self.cause.since},
            "do": do,
            "events": [
                _event(line.event, data=data) | {"depth": line.depth, "steps": steps.get(line.event.id, [])}
                for line in self.lines
                if line.step is None
            ],
            "other_stories": list(self.others),
            "notes": list(self.notes),
        }


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
