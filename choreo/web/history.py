"""The last hour of each handler: what waited for it, and how many runs ended."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from choreo.observe.handlers import HandlerState
from choreo.store.runs import Run

#: Seconds of one step, and the number of steps: an hour.
STEP, STEPS = 30.0, 120
#: The most handlers whose past is kept. Each takes about 15 kilobytes.
MOST_HANDLERS = 1000


@dataclass(slots=True)
class Step:
    """What was seen within one step."""

    #: The most that waited. None: nobody looked.
    waiting: int | None = None
    #: The sum of the rates at which runs ended, and the number of looks.
    rates: float = 0.0
    looks: int = 0
    #: The number of runs by the record. It tells of the time before the first look.
    recorded: float = 0.0

    @property
    def rate(self) -> float | None:
        """Runs per second. None: unknown."""
        return self.rates / self.looks if self.looks else None


@dataclass(frozen=True)
class Series:
    """One figure over the last hour: a value for each step, the oldest first. None: unknown."""

    values: Sequence[float | None]

    @property
    def most(self) -> float:
        """The largest value."""
        return max((value for value in self.values if value is not None), default=0.0)

    @property
    def is_known(self) -> bool:
        """True if any value is known."""
        return any(value is not None for value in self.values)


class History:
    """Keeps the last hour. Times are in seconds, by the store's clock. Not safe in threads that write."""

    def __init__(self) -> None:
        self._steps: dict[str, dict[int, Step]] = defaultdict(dict)
        #: For each handler whose record was read: the first step of which the record tells, and the first look.
        self._told: dict[str, tuple[int, int]] = {}
        self._now = 0

    def note(self, now: float, states: Iterable[HandlerState]) -> None:
        """Note what a look has found."""
        self._now = int(now // STEP)
        for state in states:
            if state.name not in self._steps and len(self._steps) >= MOST_HANDLERS:
                continue
            step = self._steps[state.name].setdefault(self._now, Step())
            if state.waiting is not None:
                step.waiting = max(step.waiting or 0, state.waiting)
            if state.outgoing is not None:
                step.rates, step.looks = step.rates + state.outgoing, step.looks + 1
        self._forget()

    def recall(self, name: str, runs: Sequence[Run], since: float = 0.0, sample: float = 1.0) -> None:
        """
        Add the runs that the record has of the time before the first look.

        These are all runs ``since`` that time. ``sample`` is the share of stories that are recorded.
        """
        if name not in self._steps:
            return
        for run in runs:
            self._steps[name].setdefault(int(run.at // STEP), Step()).recorded += 1 / sample
        self._told[name] = int(since // STEP) + bool(since), self._now

    def waiting(self, name: str) -> Series:
        """What waited for a handler."""
        steps = self._steps.get(name, {})
        return Series([steps[place].waiting if place in steps else None for place in self._places()])

    def rate(self, name: str) -> Series:
        """Runs of a handler per second, those before the first look from the record."""
        return Series([self._rate(name, place) for place in self._places()])

    def _rate(self, name: str, place: int) -> float | None:
        step = self._steps.get(name, {}).get(place)
        first, looked = self._told.get(name, (0, 0))
        if first <= place < looked:
            return (step.recorded if step else 0) / STEP
        return step.rate if step else None

    def _places(self) -> range:
        return range(self._now - STEPS + 1, self._now + 1)

    def _forget(self) -> None:
        """Drop steps that are older than an hour, and handlers without any."""
        oldest = self._now - STEPS
        for name, steps in list(self._steps.items()):
            for place in [place for place in steps if place < oldest]:
                del steps[place]
            if not steps:
                del self._steps[name]
