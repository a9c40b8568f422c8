"""Waterfalls: the lines of a trace along an axis of time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import floor, log10

from choreo.cached import cached_property
from choreo.observe.open_end import Kind
from choreo.observe.trace import Line, Step, Trace
from choreo.observe.words import span
from choreo.store.runs import Result, Run

#: A stretch in which nothing begins or ends is cut out if it is longer than all others together, times this.
_LONG = 3.0
#: The most stretches that are cut out, the shortest of them in seconds, and the least seconds that are left.
_MOST_CUTS, _SHORTEST, _LEAST = 3, 0.5, 0.01
#: The share of the axis that a cut takes.
_CUT = 0.06
#: About how many marks an axis has, and the least share of it between two of them.
_MARKS, _APART = 5, 0.13


class State(StrEnum):
    """What a bar shows. The value is its name for people and for style sheets."""

    EVENT = "event"
    DONE = "done"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    #: The event waited in a join for the others.
    PART = "part"
    #: It waits, and goes on by itself: in its queue, for its time, for other events.
    WAITING = "waiting"
    #: A worker has it.
    RUNNING = "running"
    UNKNOWN = "unknown"


_STATES = {
    Result.RETRY: State.FAILED,
    Result.HELD: State.FAILED,
    Result.DEAD: State.DEAD,
    Result.CANCELLED: State.CANCELLED,
    Result.CANCELLED_BY_HAND: State.CANCELLED,
}
_OPEN = {Kind.TAKEN: State.RUNNING, Kind.LETTER: State.DEAD}


@dataclass(frozen=True)
class Bar:
    """A line of the trace and its time, in seconds since the story began."""

    line: Line
    state: State
    #: When it began to wait. For an event: when it was announced.
    since: float
    #: When its handler began; equal to ``until`` if no handler did.
    start: float
    #: When it ended; now, for what has not ended.
    until: float
    run: Run | None = None

    @property
    def step(self) -> Step | None:
        """What the handler did; None for an event."""
        return self.line.step

    @property
    def is_open(self) -> bool:
        """True if it has not ended."""
        return self.state in (State.WAITING, State.RUNNING, State.UNKNOWN) or (
            self.state is State.DEAD and self.run is None
        )


@dataclass(frozen=True)
class Cut:
    """A stretch of time that the axis leaves out, in seconds since the story began."""

    begin: float
    end: float


@dataclass(frozen=True)
class Axis:
    """An axis of time. It leaves out long stretches in which nothing begins or ends."""

    #: Seconds.
    length: float
    cuts: Sequence[Cut] = ()

    def place(self, moment: float) -> float:
        """The place of a moment on the axis, from 0 to 1. ``moment`` is in seconds since the story began."""
        moment = min(max(moment, 0.0), self.length)
        before = [cut for cut in self.cuts if cut.begin < moment]
        left_out = sum(min(moment, cut.end) - cut.begin for cut in before)
        share = sum((min(moment, cut.end) - cut.begin) / (cut.end - cut.begin) for cut in before)
        return (moment - left_out) / self._shown * (1 - _CUT * len(self.cuts)) + _CUT * share

    def marks(self) -> list[tuple[float, str]]:
        """Places on the axis, each with its time in words."""
        marks: list[tuple[float, str]] = []
        for moment in self._moments():
            place, text = self.place(moment), span(moment) if moment else "0"
            if not marks or (place - marks[-1][0] >= _APART and text != marks[-1][1]):
                marks.append((place, text))
        return marks

    @cached_property
    def _shown(self) -> float:
        return max(self.length - sum(cut.end - cut.begin for cut in self.cuts), 1e-9)

    def _moments(self) -> Iterator[float]:
        step = _round(self._shown / _MARKS)
        begin = 0.0
        for cut in (*self.cuts, None):
            end = self.length if cut is None else cut.begin
            first = -(-begin // step)  # the next multiple
            yield from (number * step for number in range(int(first), int(end / step + 1e-9) + 1))
            if cut is not None:
                begin = cut.end
                yield begin


@dataclass(frozen=True)
class Waterfall:
    """The bars of a trace, in its order, and the axis below them."""

    bars: Sequence[Bar]
    axis: Axis


def waterfall(trace: Trace) -> Waterfall:
    """Lay a trace along an axis of time."""
    began = trace.began if trace.began is not None else trace.now
    bars = [bar for line in trace.lines for bar in _bars(line, began, max(trace.now - began, 0.0))]
    return Waterfall(bars, _axis(bars))


def _bars(line: Line, began: float, now: float) -> Iterator[Bar]:
    event_at = now if line.event.at is None else max(line.event.at - began, 0.0)
    step = line.step
    if step is None:
        is_out = line.to_announce is None
        yield Bar(line, State.EVENT if is_out else State.WAITING, event_at, event_at if is_out else now, event_at)
        return
    for run in step.runs:
        until = max(run.at - began, 0.0)
        start = max(until - run.took, 0.0)
        yield Bar(line, _STATES.get(run.result, State.DONE), max(start - run.waited, 0.0), start, until, run)
    since = max(step.runs[-1].at - began, 0.0) if step.runs else event_at
    if step.joined is not None:
        ended = max(step.joined.at - step.joined.took - began, event_at)
        yield Bar(line, State.PART, event_at, ended, ended)
    elif step.is_open:
        state = State.UNKNOWN if step.end is None else _OPEN.get(step.end.kind, State.WAITING)
        yield Bar(line, state, since, now, now)


def _axis(bars: Sequence[Bar]) -> Axis:
    length = max((bar.until for bar in bars), default=0.0)
    moments = sorted({0.0, length, *(moment for bar in bars for moment in (bar.since, bar.start, bar.until))})
    stretches = [Cut(begin, end) for begin, end in pairwise(moments)]
    return Axis(length, sorted(_cuts(stretches), key=lambda cut: cut.begin))


def _cuts(stretches: Iterable[Cut]) -> Iterator[Cut]:
    """The stretches that make all others too short to see."""
    longest = sorted(stretches, key=lambda one: one.end - one.begin, reverse=True)
    rest = sum(one.end - one.begin for one in longest)
    for one in longest[:_MOST_CUTS]:
        rest -= one.end - one.begin
        if one.end - one.begin < max(_LONG * rest, _SHORTEST) or rest < _LEAST:
            return
        yield one


def _round(seconds: float) -> float:
    """A round number of seconds that is not smaller: 1, 2 or 5 times a power of 10."""
    power = 10.0 ** floor(log10(max(seconds, 1e-3)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= seconds * 0.999)
