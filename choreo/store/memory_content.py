"""What a store in memory keeps, and what all of its parts share."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from heapq import heappop, heappush
from threading import RLock
from typing import Any, TypeVar, cast

from choreo.events.message import Message
from choreo.store.failures import MOST_KINDS, Row
from choreo.store.joins import Arrival
from choreo.store.letters import Card, Place
from choreo.store.memory_register import MemoryRegister
from choreo.store.memory_slots import MemorySlots
from choreo.store.memory_turns import MemorySeries
from choreo.store.pauses import Pause
from choreo.store.presence import MOST_GONE, MOST_SEEN, SEEN_FOR, Program
from choreo.store.register import UnheardType
from choreo.store.repairs import MOST_REPAIRS
from choreo.store.runs import Recording, Run
from choreo.store.terms import Terms

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Unit:
    done: bool = False
    note: str = ""
    #: Signal → the highest attempt whose outcome is recorded; "" for the unit itself.
    settled: Counter[str] = field(default_factory=Counter)
    #: The current claim: its token, and the time at which its lease runs out.
    token: str = ""
    until: float = 0.0
    deliveries: int = 0
    #: The number of the beginning whose end was noted, and the note.
    ended: tuple[int, str] = (0, "")
    #: The token of the claim before the current one, if that never finished.
    before: str = ""
    forgotten_at: float = 0.0


@dataclass
class Roll:
    """The programs of one service."""

    #: Name → the time until which it counts as alive, the time of its last sign of life, and its record.
    programs: dict[str, tuple[float, float, Program]] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    announced: dict[str, float] = field(default_factory=dict)

    @property
    def seen(self) -> float:
        """The time of the last sign of life of any program."""
        return max((seen for _, seen, _ in self.programs.values()), default=0.0)

    def tidy(self, now: float) -> None:
        """Forget the programs that have ended, but for the last one of each node, and what only they declare."""
        nodes = {program.node for until, _, program in self.programs.values() if until > now}
        gone = [(seen, name) for name, (until, seen, _) in self.programs.items() if until <= now]
        kept = 0
        for _, name in sorted(gone, reverse=True):
            node = self.programs[name][2].node
            if node in nodes or kept >= MOST_GONE:
                del self.programs[name]
            else:
                nodes.add(node)
                kept += 1
        used = {program.digest for _, _, program in self.programs.values()}
        self.descriptions = {digest: text for digest, text in self.descriptions.items() if digest in used}

    def announce(self, types: Sequence[str], now: float) -> None:
        """Remember that a program has begun to announce these types."""
        self.announced = {kind: when for kind, when in self.announced.items() if when + SEEN_FOR > now}
        for kind in types:
            if len(self.announced) < MOST_SEEN or kind in self.announced:
                self.announced[kind] = now


@dataclass
class Gathering:
    """The parts that have arrived for a join: name → the time of arrival, and the text."""

    parts: dict[str, tuple[float, str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    #: Name → the `Arrival.part` as which it came.
    kinds: dict[str, str] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """Name → text."""
        return {name: text for name, (_, text) in self.parts.items()}

    def status(self, arrival: Arrival) -> tuple[int, bool, bool]:
        """How many events are here; True if they are complete; True if no more of this arrival's type are needed."""
        here, full = 0, set()
        for part, need in arrival.needs.items():
            have = sum(part in (name.partition("/")[0], self.kinds.get(name)) for name in self.parts)
            wanted: float = 1 if need is None else need or dict[str, float](self.counts).get(part, float("inf"))
            here += have
            if have >= wanted:
                full.add(part)
        return here, len(full) >= arrival.at_least, arrival.part in full

    def text_of(self, arrival: Arrival) -> str | None:
        """The text of the part of this name; or of the same event under the name that another declaration gave it."""
        if arrival.name in self.parts:
            return self.parts[arrival.name][1]
        return next((text for name, (_, text) in self.parts.items() if _is_same(name, text, arrival)), None)


def _is_same(name: str, text: str, arrival: Arrival) -> bool:
    one_of_both = name == arrival.part or arrival.name == arrival.part
    return one_of_both and name.partition("/")[0] == arrival.part and text == arrival.text


@dataclass
class Waiting:
    """A message in the schedule; None for a join's deadline."""

    due: float
    message: Message | None
    #: True while a worker may be sending it.
    handed_out: bool = False
    #: True for a deadline that was sent.
    was_sent: bool = False


class Calendar(dict[str, Waiting]):
    """One schedule. Its next entry is found without a look at all of them."""

    def __init__(self) -> None:
        super().__init__()
        #: Due time and id of each entry. Pairs that no longer hold are dropped when they come to the top.
        self._heap: list[tuple[float, str]] = []

    def add(self, key: str, entry: Waiting) -> None:
        """Add an entry, unless there is one with this id."""
        if key not in self:
            self[key] = entry
            heappush(self._heap, (entry.due, key))

    def bring_forward(self, key: str, due: float) -> None:
        """Let an entry fall due at this time, if there is one. A deadline that was sent is sent again."""
        if key in self:
            self[key] = Waiting(due, self[key].message)
            heappush(self._heap, (due, key))

    def next_due(self) -> float | None:
        """The time at which the next entry falls due; None if there is none. Deadlines that were sent do not count."""
        heap = self._heap
        while heap:
            due, key = heap[0]
            entry = self.get(key)
            if entry is not None and entry.due == due and not entry.was_sent:
                return due
            heappop(heap)
        return None

    def hand_out(self, now: float, limit: int, hold: float) -> list[tuple[str, Waiting]]:
        """Up to ``limit`` entries that are due, the first one first. They fall due again after ``hold`` seconds."""
        handed_out: dict[str, Waiting] = {}
        while len(handed_out) < limit and (due := self.next_due()) is not None and due <= now:
            _, key = heappop(self._heap)
            if key not in handed_out:
                entry = handed_out[key] = self[key]
                entry.due, entry.handed_out = now + hold, True
        for key, entry in handed_out.items():
            heappush(self._heap, (entry.due, key))
        return list(handed_out.items())


@dataclass
class Failing:
    """The failures of a handler in a row."""

    since: float
    last: float
    total: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def count(self, kind: str, now: float) -> Row:
        """Count one more."""
        self.last, self.total = now, self.total + 1
        if kind in self.kinds or len(self.kinds) < MOST_KINDS:
            self.kinds[kind] += 1
        return Row(self.kinds[kind] or 1, self.total, self.since)


@dataclass
class Drawer:
    """The state of one handler, or of another name that has a schedule."""

    units: dict[str, Unit] = field(default_factory=dict)
    parts: dict[str, Gathering] = field(default_factory=lambda: defaultdict(Gathering))
    calendar: Calendar = field(default_factory=Calendar)
    letters: dict[str, str] = field(default_factory=dict)
    #: Dead letter → its place.
    letter_places: dict[str, Place] = field(default_factory=dict)
    #: Dead letter → its entry in the index, if it has one.
    cards: dict[str, Card] = field(default_factory=dict)
    tally: Counter[str] = field(default_factory=Counter)
    #: Delivery → how often it came back: see `Claims.returned`.
    returns: Counter[str] = field(default_factory=Counter)
    #: Identities of events that took part in a round of a join → the time until which that is remembered.
    took_part: dict[str, float] = field(default_factory=dict)
    #: The failures in a row; None if the last run succeeded.
    failing: Failing | None = None
    #: Ids of the entries in the calendar that wait for the end of the pause.
    held: list[str] = field(default_factory=list)
    #: The pause, which may have ended by its ``until``.
    pause: Pause | None = None
    slots: MemorySlots = field(default_factory=MemorySlots)
    #: Key → its series.
    series: dict[str, MemorySeries] = field(default_factory=lambda: defaultdict(MemorySeries))
    #: The record of runs, oldest first.
    runs: deque[Run] = field(default_factory=deque)
    #: The events that are kept with the runs, as JSON, by their ids, oldest first.
    events: dict[str, str] = field(default_factory=dict)
    #: Time, subject and story of each entry of the record that leads from another subject to a story.
    subjects: deque[tuple[float, str, str]] = field(default_factory=deque)

    def take(self, letter_id: str) -> bool:
        """Remove a dead letter. False when there was none."""
        self.letter_places.pop(letter_id, None)
        self.cards.pop(letter_id, None)
        return self.letters.pop(letter_id, None) is not None

    def places(self, group: str = "") -> list[Place]:
        """The places of the dead letters, or of those of a group, in order."""
        ids = [key for key in self.letters if not group or (key in self.cards and self.cards[key].group == group)]
        return sorted((self.letter_places[key] for key in ids), key=lambda place: place.order)

    def count(self, reason: str, arrival: Arrival) -> None:
        """Count an event that does not count for the join, unless it was delivered before."""
        if not arrival.may_be_repeated:
            self.tally[reason] += 1


@dataclass
class Content:
    """The things that a store in memory keeps. Several stores can share one, each with its own terms."""

    lock: RLock = field(default_factory=RLock)
    drawers: dict[str, Drawer] = field(default_factory=lambda: defaultdict(Drawer))
    handlers: set[str] = field(default_factory=set)
    registers: dict[str, MemoryRegister] = field(default_factory=lambda: defaultdict(MemoryRegister))
    rolls: dict[str, Roll] = field(default_factory=lambda: defaultdict(Roll))
    joins: dict[str, str] = field(default_factory=dict)
    unheard: dict[str, UnheardType] = field(default_factory=dict)
    tended: dict[str, float] = field(default_factory=dict)
    #: Dead letter, also one that is gone → its number.
    turns: dict[str, int] = field(default_factory=dict)
    #: Repairs with their times, oldest first.
    repairs: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=MOST_REPAIRS))


def locked(method: F) -> F:
    """The method, during which no other thread changes the content."""

    @wraps(method)
    def call(self: "MemoryPart", *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(F, call)


class MemoryPart:
    """A part of the store in memory. See `choreo.store.memory.MemoryStore` for the arguments."""

    def __init__(
        self,
        terms: Terms = Terms(),  # noqa: B008 - immutable
        clock: Callable[[], float] = time.time,
        content: Content | None = None,
        recording: Recording = Recording(),  # noqa: B008 - immutable
    ) -> None:
        content = Content() if content is None else content
        self.terms = terms
        self._recording = recording
        self._clock = clock
        self._turns = content.turns
        self._lock = content.lock
        self._drawers = content.drawers
        self._handlers = content.handlers
        self._registers = content.registers
        self._rolls = content.rolls
        self._joins = content.joins
        self._unheard = content.unheard
        self._tended = content.tended
        self._repairs = content.repairs
