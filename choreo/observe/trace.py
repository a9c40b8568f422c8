"""Traces: the story of one order, as a tree of events and of what became of each of them."""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
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
    #: True if it follows a declared story, or watches an effect that stands, and that is fine so far.
    is_watching: bool = False
    #: The ids of the dead letters of its runs that do not exist any more.
    gone: Collection[str] = ()

    @property
    def is_quiet(self) -> bool:
        """True if the handler is done with the event at the first attempt, and announced nothing."""
        runs = self.runs
        is_done = len(runs) == 1 and runs[0].result is Result.DONE and runs[0].attempt == 1 and not runs[0].announced
        return is_done and self.end is None

    def is_replay(self, run: Run) -> bool:
        """True if this run was made by the replay of a dead letter: after one, nothing else runs the event again."""
        before = takewhile(lambda one: one is not run, self.runs)
        return any(one.result is Result.DEAD for one in before)

    def was_replayed(self, run: Run) -> bool:
        """True if it is known that the dead letter of this run was replayed."""
        is_sent = self.end is not None and self.end.event.replay == run.letter
        return is_sent or any(self.is_replay(one) for one in self.runs[self.runs.index(run) + 1 :])

    @property
    def is_told(self) -> bool:
        """True if its last run tells of the dead letter that is still there."""
        letter = self.end.letter if self.end is not None else None
        return letter is not None and bool(self.runs) and self.runs[-1].letter == letter.id

    @property
    def is_open(self) -> bool:
        """True if something is still to be done, or nothing is known, and no run tells of it."""
        return (self.end is not None and not self.is_told) or not (self.runs or self.joined)

    def words(self, now: float) -> str:
        """Where the event waits, in a few words. ``now`` is in seconds since 1970."""
        if self.joined is not None:
            how = {Result.CANCELLED: "cancelled by", Result.CANCELLED_BY_HAND: "cancelled by hand, with"}
            return f"a part, {how.get(self.joined.result, 'with')} {self.joined.type}"
        if self.end is not None:
            return self.end.words(now)
        is_unknown = self.cause is not None and self.cause.name == "unknown"
        return "?  nothing is known of it" if is_unknown else "?  perhaps in its queue"

    def words_of(self, run: Run) -> str:
        """How a run of it ended, if that is worth a word; "" if not."""
        replayed = "replayed" if self.is_replay(run) else ""
        number = f"attempt {run.attempt}" if len(self.runs) > 1 or run.attempt > 1 else ""
        return "  ".join(filter(None, [replayed, self._outcome(run, number)]))

    def _outcome(self, run: Run, number: str) -> str:
        match run.result:
            case Result.DONE:
                with_ = dict.fromkeys(kind for kind, event_id in run.parts if event_id != run.event)
                return "  ".join(filter(None, [number, f"with {', '.join(with_)}" if with_ else ""]))
            case Result.RETRY:
                return f"attempt {run.attempt} failed: {run.detail}"
            case Result.HELD:
                return f"attempt {run.attempt} failed, held by the breaker: {run.detail}"
            case Result.CANCELLED:
                return f"cancelled by {run.type}"
            case Result.DEAD if run.letter in self.gone:
                since = "replayed since" if self.was_replayed(run) else "replayed or discarded since"
                return f"dead letter, {since}: {run.detail.partition(' ')[2]}"
            case Result.DEAD:
                return f"DEAD LETTER {run.detail}"
            case Result.CANCELLED_BY_HAND:
                return f"cancelled by hand: {run.detail}"
            case other:
                return "  ".join(filter(None, [number, str(other)]))

    @property
    def at(self) -> float | None:
        """When its first attempt ended, or is known to wait."""
        return self.runs[0].at if self.runs else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        end = self.end
        return {
            "handler": self.handler,
            "runs": [
                _run(run) | {"is_replay": self.is_replay(run), "letter_is_gone": run.letter in self.gone}
                for run in self.runs
            ],
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
    #: What is still to be done to announce the event; None: it was announced.
    to_announce: OpenEnd | None = None

    @property
    def is_noise(self) -> bool:
        """True for what only listens: to all events, or to a declared story."""
        step = self.step
        return step is not None and ((step.is_wildcard and step.is_quiet) or step.is_watching)


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
        return min((line.event.at for line in self.lines if line.event.at and not line.to_announce), default=None)

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
        told = self.to_dict(data=data)
        text = json.dumps(told, ensure_ascii=False, default=str)
        return text if text.isprintable() else json.dumps(told, default=str)

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
                _event(line.event, data=data)
                | {"due": line.to_announce.due if line.to_announce else None}
                | {"depth": line.depth, "steps": steps.get(line.event.id, [])}
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
