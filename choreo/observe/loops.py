"""Loops: events that cause events of their own type, again and again, in one story."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from choreo.errors import LoopError
from choreo.store.runs import Run

#: A circle of types counts as a loop from this number of events of one story.
FEWEST = 50


@dataclass(frozen=True)
class Loop:
    """A circle of events in one story."""

    story: str
    subject: str
    #: The types on the circle, sorted.
    types: tuple[str, ...]
    #: How many events of these types the record knows, and within how many seconds they were announced. It may have
    #: forgotten older ones.
    events: int
    seconds: float
    #: The dead letter as which it ended at ``choreo_max_hops``; "" if it goes on, or ended by itself.
    letter: str = ""


def loops_in(runs: Iterable[Run], fewest: int = FEWEST) -> list[Loop]:
    """
    The loops among these runs, the largest first.

    Many events alone are no loop: one order may have hundreds of items. In a loop a type leads back to itself.
    """
    stories: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        stories[run.story].append(run)
    found = [_loop(story, its) for story, its in stories.items() if len(its) >= fewest]
    return sorted((loop for loop in found if loop and loop.events >= fewest), key=lambda loop: -loop.events)


def _loop(story: str, runs: list[Run]) -> Loop | None:
    leads_to: dict[str, set[str]] = defaultdict(set)
    announced: Counter[str] = Counter()
    for run in runs:
        types = [kind for kind, _ in run.announced]
        leads_to[run.type].update(types)
        announced.update(types)
    circle = sorted(kind for kind in leads_to if kind in _reached(kind, leads_to))
    if not circle:
        return None
    times = [run.at for run in runs]
    events = sum(announced[kind] for kind in circle)
    return Loop(story, runs[0].subject, tuple(circle), events, max(times) - min(times), _end_of(runs))


def _end_of(runs: Iterable[Run]) -> str:
    """The last dead letter of these runs that was made by ``choreo_max_hops``; "" if there is none."""
    ends = [run for run in runs if run.letter and run.detail.startswith(f"{run.letter} {LoopError.__name__}: ")]
    return max(ends, key=lambda run: run.at).letter if ends else ""


def _reached(start: str, leads_to: Mapping[str, set[str]]) -> set[str]:
    """All types that one of this type leads to, at once or later."""
    found: set[str] = set()
    left = [start]
    while left:
        for kind in leads_to.get(left.pop(), ()):
            if kind not in found:
                found.add(kind)
                left.append(kind)
    return found
