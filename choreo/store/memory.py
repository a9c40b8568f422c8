"""The store in memory, for unit tests and experiments: the same guarantees, within one process, until it ends."""

import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from heapq import heappop, heappush
from math import inf
from operator import itemgetter
from threading import RLock
from typing import Any, TypeVar, cast

from choreo.events.message import Message
from choreo.events.patterns import Binding
from choreo.store.claims import (
    COMPLETE,
    OUTBOX_GRACE,
    SURPLUS,
    Claim,
    ClaimResult,
    CommitResult,
    LastEnd,
    Outcome,
    Repeated,
    Settlement,
    Verdict,
)
from choreo.store.deployments import Applied, Retirement, Retiring, Step
from choreo.store.failures import FORGOTTEN_AFTER, MOST_KINDS, Row
from choreo.store.joins import Arrival, JoinState
from choreo.store.letters import BEGINNING, Card, LetterGroup, Place, Replay
from choreo.store.memory_register import MemoryRegister
from choreo.store.memory_slots import MemorySlots
from choreo.store.memory_turns import MemorySeries
from choreo.store.parts import mark_of
from choreo.store.pauses import ANY, Pause, Paused, stamp
from choreo.store.port import Store
from choreo.store.presence import MOST_GONE, MOST_SEEN, SEEN_FOR, Presence, Program
from choreo.store.register import MOST_UNHEARD, Declared, Listening, UnheardType
from choreo.store.repairs import MOST_REPAIRS
from choreo.store.runs import Entry, Recording, Run, from_text, is_subject, subject_entry
from choreo.store.schedule import (
    DEADLINE_PREFIX,
    Backlog,
    Hurried,
    Kept,
    Scheduled,
    Unreadable,
    deadline_id,
    entry_mark,
)
from choreo.store.search import MOST, KeptUnit, needles
from choreo.store.slots import Slot
from choreo.store.terms import Terms
from choreo.store.turns import (
    ASK_AGAIN,
    ASKED,
    AWAITED,
    CALL_GRACE,
    CALLED,
    RUNNING,
    Turn,
    TurnResult,
    TurnVerdict,
    copy_id,
)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class _Unit:
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
class _Roll:
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
class _Gathering:
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
class _Entry:
    """A message in the schedule; None for a join's deadline."""

    due: float
    message: Message | None
    #: True while a worker may be sending it.
    handed_out: bool = False
    #: True for a deadline that was sent.
    was_sent: bool = False


class _Calendar(dict[str, _Entry]):
    """One schedule. Its next entry is found without a look at all of them."""

    def __init__(self) -> None:
        super().__init__()
        #: Due time and id of each entry. Pairs that no longer hold are dropped when they come to the top.
        self._heap: list[tuple[float, str]] = []

    def add(self, key: str, entry: _Entry) -> None:
        """Add an entry, unless there is one with this id."""
        if key not in self:
            self[key] = entry
            heappush(self._heap, (entry.due, key))

    def bring_forward(self, key: str, due: float) -> None:
        """Let an entry fall due at this time, if there is one. A deadline that was sent is sent again."""
        if key in self:
            self[key] = _Entry(due, self[key].message)
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

    def hand_out(self, now: float, limit: int, hold: float) -> list[tuple[str, _Entry]]:
        """Up to ``limit`` entries that are due, the first one first. They fall due again after ``hold`` seconds."""
        handed_out: dict[str, _Entry] = {}
        while len(handed_out) < limit and (due := self.next_due()) is not None and due <= now:
            _, key = heappop(self._heap)
            if key not in handed_out:
                entry = handed_out[key] = self[key]
                entry.due, entry.handed_out = now + hold, True
        for key, entry in handed_out.items():
            heappush(self._heap, (entry.due, key))
        return list(handed_out.items())


@dataclass
class _Failing:
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
class _Drawer:
    """The state of one handler, or of another name that has a schedule."""

    units: dict[str, _Unit] = field(default_factory=dict)
    parts: dict[str, _Gathering] = field(default_factory=lambda: defaultdict(_Gathering))
    calendar: _Calendar = field(default_factory=_Calendar)
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
    failing: _Failing | None = None
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
    drawers: dict[str, _Drawer] = field(default_factory=lambda: defaultdict(_Drawer))
    handlers: set[str] = field(default_factory=set)
    registers: dict[str, MemoryRegister] = field(default_factory=lambda: defaultdict(MemoryRegister))
    rolls: dict[str, _Roll] = field(default_factory=lambda: defaultdict(_Roll))
    joins: dict[str, str] = field(default_factory=dict)
    unheard: dict[str, UnheardType] = field(default_factory=dict)
    tended: dict[str, float] = field(default_factory=dict)
    #: Dead letter, also one that is gone → its number.
    turns: dict[str, int] = field(default_factory=dict)
    #: Repairs with their times, oldest first.
    repairs: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=MOST_REPAIRS))


def _locked(method: F) -> F:
    @wraps(method)
    def call(self: "MemoryStore", *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(F, call)


class MemoryStore(Store):
    """
    The store in memory. See the protocols of `choreo.store` for the guarantees of each method.

    ``clock`` returns seconds since 1970. A test can pass its own, to move time. Stores with one ``content`` are one
    store for services with different ``terms``.
    """

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

    @_locked
    def begin(self, claim: Claim) -> ClaimResult:
        """Claim a unit."""
        unit = self._unit(claim)
        now = self._clock()
        if claim.once and self._took_part(claim, claim.once):
            return ClaimResult(Verdict.DONE)
        if claim.once and unit.done:
            self._drawers[claim.handler].took_part[claim.once] = now + self.terms.retention.total_seconds()
        if unit.done or 0 < claim.attempt <= unit.settled[claim.signal]:
            return ClaimResult(Verdict.DONE)
        if unit.until > now and unit.token != claim.token:
            return ClaimResult(Verdict.BUSY, busy_seconds=unit.until - now)
        deliveries = unit.deliveries + (unit.token != claim.token or not unit.deliveries)
        if claim.ahead and deliveries > 1:
            return ClaimResult(Verdict.BUSY)
        if unit.deliveries and unit.token != claim.token:
            unit.before = unit.token
        unit.deliveries = unit.deliveries if claim.ahead else deliveries
        unit.token, unit.until = claim.token, now + (claim.ahead or self.terms.lease.total_seconds())
        unit.forgotten_at = now + self.terms.retention.total_seconds()
        poisonous = deliveries > self.terms.max_deliveries
        gathering = self._drawers[claim.handler].parts.get(claim.unit)
        parts = gathering.texts if gathering else {}
        return ClaimResult(Verdict.POISON if poisonous else Verdict.RUN, deliveries, parts=parts)

    @_locked
    def release(self, claims: Sequence[Claim]) -> None:
        """Give up claims that were made ahead, as far as their handlers have not begun."""
        for claim in claims:
            unit = self._unit(claim)
            if unit.token == claim.token and not unit.deliveries:
                unit.token, unit.until = "", 0.0

    @_locked
    def undo_begin(self, claims: Sequence[Claim]) -> None:
        """Take the beginnings of these claims back."""
        for claim in claims:
            unit = self._unit(claim)
            if unit.token == claim.token and unit.deliveries:
                unit.token, unit.until, unit.deliveries = "", 0.0, unit.deliveries - 1

    @_locked
    def arrive(self, claim: Claim, arrival: Arrival) -> ClaimResult:
        """Record one part of a join, and claim the join if it is complete."""
        drawer, unit = self._drawers[claim.handler], self._unit(claim)
        if arrival.round_of:
            # A replayed round has its parts again, and they are remembered all the same.
            pending = drawer.parts.get(claim.unit)
            is_restored = pending is not None and pending.text_of(arrival) is not None
            took_part = self._took_part(claim, arrival.round_of) and not is_restored
            if took_part or (unit.done and mark_of(arrival.round_of) in unit.note):
                return ClaimResult(Verdict.DONE)
            if unit.done:
                unit = drawer.units[claim.unit] = _Unit()
        elif unit.done:
            drawer.count("late", arrival)
            return ClaimResult(Verdict.DONE, note=unit.note)
        return self._gather(claim, arrival, unit, drawer)

    def _gather(self, claim: Claim, arrival: Arrival, unit: _Unit, drawer: _Drawer) -> ClaimResult:
        now, deadline, gathering = self._clock(), deadline_id(claim.unit), drawer.parts[claim.unit]
        held = ClaimResult(Verdict.BUSY, busy_seconds=self.terms.lease.total_seconds())
        known = gathering.text_of(arrival)
        here, complete, own_is_full = gathering.status(arrival)
        if known is None and complete:
            if not unit.settled[""] and not unit.token:
                drawer.calendar.bring_forward(deadline, now)
            if arrival.round_of:
                return held
            drawer.count("late", arrival)
            return ClaimResult(Verdict.DONE, note=COMPLETE)
        drawer.calendar.add(deadline, _Entry(now + arrival.within, None))
        surplus = known is None and own_is_full
        if surplus and arrival.round_of:
            return held
        if surplus:
            drawer.tally["surplus"] += 1
        elif known is not None and not complete and claim.attempt <= 1 and not arrival.may_be_repeated:
            surplus = known != arrival.text
            drawer.tally["surplus" if surplus else "duplicate"] += 1
        if not surplus:
            if known is None:
                gathering.parts[arrival.name] = now, arrival.text
                gathering.kinds[arrival.name] = arrival.part
            gathering.counts |= arrival.counts
            here, complete, _ = gathering.status(arrival)
        if not complete:
            was_complete = unit.settled.pop("", 0) > 0
            if (known is not None or was_complete) and drawer.calendar[deadline].was_sent:
                drawer.calendar.bring_forward(deadline, now)
            return ClaimResult(Verdict.WAIT, here, note=SURPLUS if surplus else "")
        result = self.begin(claim)
        other = result.verdict is Verdict.DONE and known is not None and known != arrival.text
        return replace(result, note=COMPLETE) if other else result

    @_locked
    def pending(self, handler: str, limit: int, after: str = "") -> tuple[list[str], str]:
        """Units of pending joins, soonest deadline first, and the cursor of the next page."""
        pending = sorted(
            (-entry.due if entry.was_sent else entry.due, key)
            for key, entry in self._drawers[handler].calendar.items()
            if key.startswith(DEADLINE_PREFIX)
        )
        score, _, last = after.partition(" ")
        left = [entry for entry in pending if not after or entry > (float(score), last)]
        page = left[:limit]
        cursor = f"{page[-1][0]!r} {page[-1][1]}" if len(left) > limit else ""
        return [key.removeprefix(DEADLINE_PREFIX) for _, key in page], cursor

    @_locked
    def look(self, handler: str, unit: str) -> JoinState | None:
        """A pending join as it is now; None if there is none."""
        drawer = self._drawers[handler]
        entry = drawer.calendar.get(deadline_id(unit))
        if entry is None:
            return None
        gathering, state = drawer.parts[unit], self._unit(Claim(handler, unit, ""))
        arrived = {name: when for name, (when, _) in gathering.parts.items()}
        lease = max(state.until - self._clock(), 0.0) if state.token else 0.0
        parts, counts = gathering.texts, dict(gathering.counts)
        return JoinState(unit, entry.due, entry.was_sent, parts, arrived, counts, state.settled[""], lease)

    @_locked
    def tally(self, handler: str) -> dict[str, int]:
        """How many events did not count for a join, by reason."""
        return dict(self._drawers[handler].tally)

    @_locked
    def describe_joins(self, descriptions: Mapping[str, str]) -> None:
        """Record the declarations of these joins: handler → JSON."""
        self._joins.update(descriptions)

    @_locked
    def joins(self) -> dict[str, str]:
        """Every join that was ever described: handler → JSON."""
        return dict(sorted(self._joins.items()))

    @_locked
    def take_slot(self, slot: Slot, limit: int, waiter: str) -> bool:
        """Take a slot, or wait for one."""
        lease = self.terms.lease.total_seconds()
        return self._drawers[slot.handler].slots.take(slot.token, limit, waiter, self._clock(), lease)

    @_locked
    def renew_slot(self, slot: Slot) -> bool:
        """Prolong the lease of a slot. False when it is no longer taken."""
        lease = self.terms.lease.total_seconds()
        return self._drawers[slot.handler].slots.renew(slot.token, self._clock(), lease)

    @_locked
    def free_slot(self, slot: Slot) -> None:
        """Give a slot up."""
        self._drawers[slot.handler].slots.taken.pop(slot.token, None)

    @_locked
    def taken_slots(self, handler: str) -> list[str]:
        """The tokens of the slots that are taken."""
        slots = self._drawers[handler].slots
        slots.clear(self._clock())
        return sorted(slots.taken)

    @_locked
    def enter_series(self, turn: Turn) -> None:
        """Note that an event has come."""
        if not self._is_finished(turn):
            self._series(turn).enter(turn.unit, turn.time)

    @_locked
    def take_turn(self, turn: Turn, message: Message) -> TurnResult:
        """Take the turn, or keep the event until it comes."""
        series, now, called = self._series(turn), self._clock(), ""
        holder = series.holder(now)
        if holder and holder != turn.unit and self._is_finished(replace(turn, unit=holder)):
            self._forget_copy(turn, series.leave(holder))
            holder = ""
        if self._is_finished(turn):
            self._forget_copy(turn, series.leave(turn.unit))
            called = self._call_next(turn) if holder in ("", turn.unit) else ""
            return TurnResult(TurnVerdict.DONE, self._called(turn, called))
        series.enter(turn.unit, turn.time)
        if series.silent == turn.unit:
            series.silent = ""
        elif not holder and series.silent:
            self._forget_copy(turn, series.leave(series.silent))
        if not holder and series.order[0][2] == turn.unit:
            holder = turn.unit
        elif not holder:
            called = self._call_next(turn)
        self._forget_copy(turn, series.copies[turn.unit])
        series.copies[turn.unit] = ""
        if holder == turn.unit:
            series.give(turn.unit, now + self._running)
            return TurnResult(TurnVerdict.GO)
        series.copies[turn.unit] = copy = copy_id(turn.token, turn.key)
        self._drawers[turn.handler].calendar.add(copy, _Entry(now + ASK_AGAIN, message))
        return TurnResult(TurnVerdict.WAIT, self._called(turn, called))

    @_locked
    def renew_turn(self, turn: Turn) -> bool:
        """Prolong the turn of a run. False when another event has it."""
        series, now = self._series(turn), self._clock()
        if series.holder(now) != turn.unit:
            return False
        series.give(turn.unit, now + self._running)
        return True

    @_locked
    def end_turn(self, turn: Turn, wait: float | None = None) -> Mapping[str, Message]:
        """End the turn of an event that is finished, or gives it up."""
        series, now = self._series(turn), self._clock()
        holder = series.holder(now)
        if wait is not None and not self._is_finished(turn):
            if holder == turn.unit:
                series.give(turn.unit, now + wait + AWAITED)
            return {}
        self._forget_copy(turn, series.leave(turn.unit))
        if holder not in ("", turn.unit):
            return {}
        return self._called(turn, self._call_next(turn))

    @_locked
    def series(self, handler: str, key: str) -> list[str]:
        """The units of a series in their order."""
        series = self._drawers[handler].series[key]
        holder, units = series.holder(self._clock()), [unit for _, _, unit in series.order]
        return [holder, *(unit for unit in units if unit != holder)] if holder in units else units

    @property
    def _running(self) -> float:
        return 2 * self.terms.lease.total_seconds() + RUNNING

    def _series(self, turn: Turn) -> MemorySeries:
        return self._drawers[turn.handler].series[turn.key]

    def _is_finished(self, turn: Turn) -> bool:
        return bool(self._unit(Claim(turn.handler, turn.unit, "")).done)

    def _forget_copy(self, turn: Turn, copy: str) -> None:
        calendar = self._drawers[turn.handler].calendar
        if copy in calendar and not calendar[copy].handed_out:
            del calendar[copy]

    def _call_next(self, turn: Turn) -> str:
        """Give the turn to the first event that is not finished. Returns the schedule id of its copy, if it waits."""
        series, now, calendar = self._series(turn), self._clock(), self._drawers[turn.handler].calendar
        series.turn = ""
        for unit in [unit for _, _, unit in series.order]:
            copy = series.copies[unit]
            if copy in calendar:
                calendar.bring_forward(copy, now + CALL_GRACE)
                series.give(unit, now + CALLED)
                series.silent = ""
                return copy
            if not self._is_finished(replace(turn, unit=unit)):
                series.give(unit, now + ASKED)
                series.silent = unit
                return ""
            series.leave(unit)
        return ""

    def _called(self, turn: Turn, copy: str) -> dict[str, Message]:
        entry = self._drawers[turn.handler].calendar.get(copy)
        return {copy: entry.message} if entry is not None and entry.message is not None else {}

    @_locked
    def forgive(self, claim: Claim) -> None:
        """Count one beginning less."""
        unit = self._unit(claim)
        unit.deliveries = max(unit.deliveries - 1, 0)

    @_locked
    def record_end(self, handler: str, unit: str, text: str, tokens: Sequence[str] = ()) -> None:
        """Record how the process ended that ran this unit."""
        state = self._unit(Claim(handler, unit, ""))
        begins = tuple(token for token in tokens if token.endswith("-"))
        if state.token and (not tokens or state.token in tokens or state.token.startswith(begins)):
            state.ended = state.deliveries, text

    @_locked
    def last_end(self, handler: str, unit: str) -> LastEnd:
        """What is known of the beginning before the current one."""
        state = self._unit(Claim(handler, unit, ""))
        number, text = state.ended
        return LastEnd(text if number >= state.deliveries - 1 else "", state.before)

    @_locked
    def is_finished(self, handler: str, unit: str) -> bool:
        """True if the unit is finished for good, and the store remembers it."""
        return self._unit(Claim(handler, unit, "")).done

    @_locked
    def returned(self, handler: str, delivery: str, by: int = 1) -> int:
        """Count one more return of a delivery that no claim counts."""
        returns = self._drawers[handler].returns
        returns[delivery] += by
        return returns[delivery]

    @_locked
    def count_failure(self, handler: str, kind: str, *, anew: bool = False) -> Row:
        """Count one more failure of a handler."""
        drawer, now = self._drawers[handler], self._clock()
        row = drawer.failing
        if row is None or anew or row.last + FORGOTTEN_AFTER <= now:
            row = drawer.failing = _Failing(since=now, last=now)
        return row.count(kind, now)

    @_locked
    def forget_failures(self, handler: str) -> None:
        """End the row: the handler has succeeded."""
        self._drawers[handler].failing = None

    @_locked
    def note_held(self, handler: str, schedule_id: str) -> None:
        """Remember that this entry of the handler's schedule waits for the end of the handler's pause."""
        self._drawers[handler].held.append(schedule_id)

    @_locked
    def hasten_held(self, handler: str, most: int | None = None) -> int:
        """Let the entries that wait for the end of a pause fall due now."""
        drawer, now, count = self._drawers[handler], self._clock(), 0
        while drawer.held and (most is None or count < most):
            key = drawer.held.pop(0)
            entry = drawer.calendar.get(key)
            if entry is not None and entry.due > now and not entry.handed_out:
                drawer.calendar.bring_forward(key, now)
                count += 1
        return count

    @_locked
    def renew(self, claim: Claim) -> bool:
        """Prolong the lease. False when another worker has the claim, or the unit is settled."""
        unit = self._unit(claim)
        if unit.token != claim.token:
            return False
        unit.until = self._clock() + self.terms.lease.total_seconds()
        unit.forgotten_at = self._clock() + self.terms.retention.total_seconds()
        return True

    @_locked
    def commit(self, claim: Claim, settlement: Settlement) -> CommitResult:
        """Settle a claim."""
        unit, drawer = self._unit(claim), self._drawers[claim.handler]
        if unit.done:
            return CommitResult(Outcome.ALREADY)
        if unit.token != claim.token:
            taken = unit.token or 0 < claim.attempt <= unit.settled[claim.signal]
            return CommitResult(Outcome.STALE if taken else Outcome.LOST)
        unit.done, unit.note = settlement.done, settlement.note
        unit.settled[claim.signal] = max(unit.settled[claim.signal], claim.attempt)
        unit.token, unit.until, unit.deliveries = "", 0.0, 0
        unit.ended, unit.before = (0, ""), ""
        unit.forgotten_at = self._clock() + max(self.terms.retention.total_seconds(), settlement.remember)
        if settlement.done:
            drawer.parts.pop(claim.unit, None)
        until = self._clock() + (settlement.retention or self.terms.retention.total_seconds())
        drawer.took_part |= dict.fromkeys(settlement.took_part, until)
        if settlement.counted:
            drawer.tally[settlement.counted] += 1
        if settlement.letter:
            self._file(claim.handler, *settlement.letter)
        for unwanted in settlement.unscheduled:
            drawer.calendar.pop(unwanted, None)
        for scheduled in settlement.scheduled:
            self.schedule(claim.handler, scheduled)
        for key, message in settlement.sent.items():
            self.schedule(claim.handler, Scheduled(key, message, OUTBOX_GRACE))
        if settlement.record:
            self._record(claim.handler, settlement.record)
        return CommitResult(Outcome.OK, settlement.sent)

    @_locked
    def commit_as_one(self, commits: Sequence[tuple[Claim, Settlement]], shared: Settlement) -> list[CommitResult]:
        """Settle several claims of one handler in one step."""
        answers = [self.commit(claim, settlement) for claim, settlement in commits]
        first = next((number for number, answer in enumerate(answers) if answer.outcome is Outcome.OK), None)
        if first is not None:
            handler = commits[first][0].handler
            for scheduled in shared.scheduled:
                self.schedule(handler, scheduled)
            for key, message in shared.sent.items():
                self.schedule(handler, Scheduled(key, message, OUTBOX_GRACE))
            answers[first] = replace(answers[first], unsent={**answers[first].unsent, **shared.sent})
        return answers

    @_locked
    def schedule(self, name: str, scheduled: Scheduled) -> None:
        """Keep a message for later."""
        entry = _Entry(self._clock() + scheduled.delay, scheduled.message)
        self._drawers[name].calendar.add(scheduled.id, entry)

    @_locked
    def unschedule(self, name: str, schedule_id: str) -> bool:
        """Remove a message that no worker has been given yet. False when it is too late, or there is none."""
        calendar = self._drawers[name].calendar
        if schedule_id not in calendar or calendar[schedule_id].handed_out:
            return False
        del calendar[schedule_id]
        return True

    def now(self) -> float:
        """Seconds since 1970, by ``clock``."""
        return self._clock()

    @_locked
    def tend(self, name: str, seconds: float) -> None:
        """Report that a worker looks into this schedule, and will for ``seconds``."""
        self._tended[name] = self._clock() + seconds

    @_locked
    def tended(self, name: str) -> bool:
        """True if a worker looks into this schedule."""
        return self._tended.get(name, 0.0) > self._clock()

    @_locked
    def ripe(self, names: Sequence[str]) -> list[str]:
        """The names of the schedules in which a message is due."""
        now = self._clock()
        return [name for name in names if (due := self._drawers[name].calendar.next_due()) is not None and due <= now]

    @_locked
    def with_entries(self, names: Sequence[str]) -> list[str]:
        """The names of the schedules among these that have entries."""
        return [name for name in names if self._drawers[name].calendar]

    @_locked
    def next_due(self, names: Sequence[str]) -> float | None:
        """The time at which the next message in these schedules falls due; None if there is none. For tests."""
        return min(
            (due for name in names if (due := self._drawers[name].calendar.next_due()) is not None), default=None
        )

    @_locked
    def due(self, name: str, limit: int, hold: float) -> list[tuple[str, Message | Unreadable | None]]:
        """Up to ``limit`` messages that are due. They are due again after ``hold`` seconds unless `sent` is called."""
        handed_out = self._drawers[name].calendar.hand_out(self._clock(), limit, hold)
        # As text and back: in Redis a message is kept as text.
        return [(key, entry.message and Message.from_json(entry.message.to_json())) for key, entry in handed_out]

    @_locked
    def sent(self, name: str, ids: Sequence[str]) -> None:
        """Remove messages that the broker has. A deadline stays, as one that was sent."""
        calendar = self._drawers[name].calendar
        for key in ids:
            if key not in calendar:
                continue
            if key.startswith(DEADLINE_PREFIX):
                if calendar[key].handed_out:  # else it is the deadline of the next round
                    calendar[key].due, calendar[key].was_sent = self._clock(), True
            else:
                del calendar[key]

    @_locked
    def backlog(self, name: str) -> Backlog:
        """How much waits in the schedule."""
        now, entries = self._clock(), self._drawers[name].calendar.values()
        due = [entry.due for entry in entries if not entry.was_sent and entry.due <= now]
        later = [entry.due for entry in entries if not entry.was_sent and entry.due > now]
        reminded = sum(entry.was_sent for entry in entries)
        joins = sum(key.startswith(DEADLINE_PREFIX) for key in self._drawers[name].calendar)
        return Backlog(len(due), now - min(due, default=now), len(later), min(later, default=None), reminded, joins)

    @_locked
    def entries(self, name: str, limit: int, after: tuple[float, str] = (0.0, "")) -> list[Kept]:
        """Up to ``limit`` entries, by their due time and then by their id, which follow this due time and id."""
        calendar = self._drawers[name].calendar
        keys = sorted((entry.due, key) for key, entry in calendar.items() if not entry.was_sent)
        page = [(due, key, calendar[key]) for due, key in keys if (due, key) > after][:limit]
        # As text and back: in Redis a message is kept as text.
        return [
            Kept(key, due, entry.message and Message.from_json(entry.message.to_json()), entry.handed_out)
            for due, key, entry in page
        ]

    @_locked
    def find_entry(self, name: str, mark: str) -> Kept | None:
        """The entry with this `entry_mark`; None if there is none."""
        kept = self.entries(name, len(self._drawers[name].calendar))
        return next((one for one in kept if entry_mark(name, one.id) == mark), None)

    @_locked
    def hurry(self, name: str, schedule_id: str) -> Hurried:
        """Let an entry fall due now, unless a worker was given it."""
        calendar, now = self._drawers[name].calendar, self._clock()
        entry = calendar.get(schedule_id)
        if entry is None or entry.was_sent:
            return Hurried.GONE
        if entry.handed_out:
            return Hurried.LEAVING
        if entry.due <= now:
            return Hurried.DUE
        calendar.bring_forward(schedule_id, now)
        return Hurried.NOW

    @_locked
    def upcoming(self, name: str, seconds: float, limit: int) -> list[tuple[str, float]]:
        """Ids of entries that fall due within so many seconds, and when: the first ``limit`` of them."""
        now = self._clock()
        entries = [(entry.due, key) for key, entry in self._drawers[name].calendar.items() if not entry.was_sent]
        return [(key, due) for due, key in sorted(entries) if now < due <= now + seconds][:limit]

    @_locked
    def add_letter(
        self,
        handler: str,
        letter_id: str,
        letter: str,
        scheduled: Sequence[Scheduled] = (),
        card: Card | None = None,
    ) -> None:
        """Record a dead letter outside any unit."""
        self._file(handler, letter_id, letter, card)
        for entry in scheduled:
            self.schedule(handler, entry)

    @_locked
    def letters(self, handler: str) -> list[str]:
        """The dead letters of a handler as JSON, oldest first."""
        return list(self._drawers[handler].letters.values())

    @_locked
    def with_letters(self, handlers: Sequence[str]) -> list[str]:
        """The handlers among these that have dead letters."""
        return [name for name in handlers if name in self._drawers and self._drawers[name].letters]

    @_locked
    def letter_count(self, handler: str, group: str = "", since: float = 0.0) -> int:
        """The number of dead letters of a handler, or of one group, that were recorded at ``since`` or later."""
        return sum(place.at >= since for place in self._drawers[handler].places(group))

    @_locked
    def letter_times(self, handler: str) -> tuple[float, float] | None:
        """When the oldest and newest letter of a handler were recorded, in seconds since 1970; None: it has none."""
        places = self._drawers[handler].places()
        return (places[0].at, places[-1].at) if places else None

    @_locked
    def newest_letters(self, handler: str, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` letters of a handler, oldest first: when each was recorded, and its JSON."""
        drawer = self._drawers[handler]
        return [(drawer.letter_places[key].at, letter) for key, letter in list(drawer.letters.items())[-limit:]]

    @_locked
    def letter(self, handler: str, letter_id: str) -> str | None:
        """One dead letter as JSON; None if there is none with this id."""
        return self._drawers[handler].letters.get(letter_id)

    @_locked
    def letter_texts(self, handler: str, ids: Sequence[str]) -> list[str | None]:
        """These dead letters as JSON; None for each that there is not."""
        return [self._drawers[handler].letters.get(letter_id) for letter_id in ids]

    @_locked
    def letter_groups(self, handler: str, since: float = 0.0) -> list[LetterGroup]:
        """The groups of the letters that were recorded at ``since`` or later."""
        drawer, groups = self._drawers[handler], dict[str, LetterGroup]()
        for place in drawer.places():
            card = drawer.cards.get(place.id)
            if card is not None and place.at >= since:
                known = groups.get(card.group) or LetterGroup(card.group, "", 0, place.at, place.at)
                groups[card.group] = replace(known, about=card.about, count=known.count + 1, last=place.at)
        return list(groups.values())

    @_locked
    def letter_places(
        self, handler: str, limit: int, after: Place = BEGINNING, until: float = inf, group: str = ""
    ) -> list[Place]:
        """The first ``limit`` letters behind this place that were recorded at ``until`` or before."""
        places = self._drawers[handler].places(group)
        known = replace(after, turn=self._turns.get(after.id, after.turn))
        return [place for place in places if place.order > known.order and place.at <= until][:limit]

    @_locked
    def letters_about(self, handler: str, subject: str) -> list[tuple[Place, Card]]:
        """The letters whose card may be about this subject, oldest first."""
        drawer = self._drawers[handler]
        cards = ((place, drawer.cards.get(place.id)) for place in drawer.places())
        return [(place, replace(card, about="")) for place, card in cards if card and card.may_be_about(subject)]

    @_locked
    def unfiled(self, handler: str) -> list[str]:
        """The ids of the letters that have no card."""
        drawer = self._drawers[handler]
        return [key for key in drawer.letters if key not in drawer.cards]

    @_locked
    def file_letters(self, handler: str, cards: Mapping[str, Card]) -> None:
        """Add these letters to the index: id → card."""
        drawer = self._drawers[handler]
        for letter_id, card in cards.items():
            if letter_id in drawer.letters:
                drawer.cards.setdefault(letter_id, card)

    @_locked
    def discard(self, handler: str, letter_id: str) -> bool:
        """Remove a dead letter. False when there was none."""
        return self._drawers[handler].take(letter_id)

    @_locked
    def discard_all(self, handler: str, ids: Sequence[str]) -> list[bool]:
        """Remove dead letters in one step. False for each that there was not."""
        return [self._drawers[handler].take(letter_id) for letter_id in ids]

    @_locked
    def replay_all(self, handler: str, replays: Sequence[Replay]) -> list[bool]:
        """Remove dead letters, forget that their units were settled, and schedule their messages, in one step."""
        return [self._replay(handler, replay) for replay in replays]

    def _file(self, handler: str, letter_id: str, letter: str, card: Card | None = None) -> None:
        drawer = self._drawers[handler]
        self._turns.setdefault(letter_id, len(self._turns) + 1)
        place = Place(self._clock(), letter_id, self._turns[letter_id])
        drawer.letters[letter_id], drawer.letter_places[letter_id] = letter, place
        if card is not None:
            drawer.cards[letter_id] = card

    def _replay(self, handler: str, replay: Replay) -> bool:
        drawer, unit = self._drawers[handler], replay.unit
        waiting = drawer.parts.get(unit) if unit is not None else None
        if (waiting is not None and waiting.parts) or not drawer.take(replay.letter):
            return False
        if unit is not None:
            drawer.units.pop(unit, None)
            self._restore(drawer.parts[unit], replay.parts)
        self.schedule(handler, replay.scheduled)
        return True

    @_locked
    def repeat(self, handler: str, unit: str, parts: Mapping[str, str], scheduled: Scheduled) -> Repeated:
        """Forget that a unit is finished, restore a join's parts, and schedule the message that runs it once more."""
        drawer, state = self._drawers[handler], self._unit(Claim(handler, unit, ""))
        if unit in drawer.parts and drawer.parts[unit].parts:
            return Repeated.WAITING
        if not state.done and (state.token or state.settled[""]):
            return Repeated.BEGUN
        drawer.units.pop(unit, None)
        self._restore(drawer.parts[unit], parts)
        self.schedule(handler, scheduled)
        return Repeated.OK

    def _restore(self, gathering: "_Gathering", parts: Mapping[str, str]) -> None:
        for name, text in parts.items():
            if name.startswith("?"):
                gathering.counts[name[1:]] = int(text)
            else:
                gathering.parts.setdefault(name, (self._clock(), text))

    @_locked
    def register(self, handlers: Sequence[str]) -> None:
        """Record these handlers."""
        self._handlers.update(handlers)

    @_locked
    def handlers(self) -> list[str]:
        """Every handler that was ever registered, sorted."""
        return sorted(self._handlers)

    @_locked
    def declare(
        self, service: str, worker: str, bindings: Sequence[Binding], ttl: float, removed: Sequence[Binding] = ()
    ) -> Declared:
        """Report that a worker lives and declares these bindings, and find the bindings that may be removed."""
        return self._registers[service].declare(self._clock(), worker, bindings, ttl, removed)

    @_locked
    def declared(self, service: str) -> dict[str, list[Binding]]:
        """The live workers of a service, and the bindings that each declares."""
        workers, now = self._registers[service].workers, self._clock()
        return {name: sorted(bindings) for name, (until, bindings) in workers.items() if until > now}

    @_locked
    def listening(self, service: str) -> Listening | None:
        """The queues of this service that events reach; None if no worker of it has ever called `declare`."""
        return self._registers[service].listening(self._clock())

    @_locked
    def apply(self, service: str, bindings: Sequence[Binding], seconds: float, *, is_made: bool = False) -> None:
        """Let these bindings count as declared for ``seconds``."""
        self._registers[service].apply(self._clock(), bindings, seconds, is_made=is_made)

    @_locked
    def applied(self, service: str) -> Applied | None:
        """What was applied for a service, and still counts."""
        return self._registers[service].applied(self._clock())

    @_locked
    def retire(self, service: str, queue: str, step: Step, record: str = "", seconds: float = 0.0) -> Retiring:
        """Make a step in the retirement of the handler with this queue."""
        return self._registers[service].retire(self._clock(), queue, step, record, seconds)

    @_locked
    def retirements(self, service: str) -> list[Retirement]:
        """The marks of a service's handlers, by queue."""
        return [mark for _, (mark, _) in sorted(self._registers[service].marks.items())]

    @_locked
    def forget(self, handler: str) -> bool:
        """Forget all that is kept of a handler, unless something of it is left."""
        drawer = self._drawers[handler]
        if drawer.calendar or drawer.letters:
            return False
        del self._drawers[handler]
        self._joins.pop(handler, None)
        self._handlers.discard(handler)
        return True

    @_locked
    def report(
        self, service: str, program: Program, description: str, ttl: float, announced: Sequence[str] = ()
    ) -> None:
        """Report that this program lives for the next ``ttl`` seconds, and declares this."""
        roll, now = self._rolls[service], self._clock()
        roll.programs[program.name] = now + ttl, now, program
        roll.descriptions[program.digest] = description
        roll.tidy(now)
        if announced:
            roll.announce(announced, now)

    @_locked
    def services(self) -> list[str]:
        """Every service that ever had a worker, or announced an event, sorted."""
        reported = {service for service, roll in self._rolls.items() if roll.programs}
        return sorted({name.partition(".")[0] for name in self._handlers} | reported)

    @_locked
    def leave(self, service: str, program: str) -> None:
        """Report that this program ends."""
        roll, now = self._rolls[service], self._clock()
        if program in roll.programs:
            roll.programs[program] = now, now, roll.programs[program][2]
        roll.tidy(now)

    @_locked
    def presence(self, service: str) -> Presence:
        """The programs of a service, and what they declare."""
        roll, now = self._rolls[service], self._clock()
        if roll.seen + SEEN_FOR <= now:
            roll = self._rolls[service] = _Roll()
        programs = [
            # As text and back: in Redis a record is kept as text.
            Program.from_json(program.to_json(), name=name, seen=seen, is_alive=until > now)
            for name, (until, seen, program) in roll.programs.items()
        ]
        return Presence.of(programs, roll.descriptions, roll.announced)

    @_locked
    def pause(
        self,
        pause: Pause,
        seconds: float | None = None,
        *,
        instead_of: Pause | None = ANY,
        scheduled: Sequence[Scheduled] = (),
        unscheduled: Sequence[str] = (),
    ) -> Paused:
        """Pause a handler, for so many seconds or until it is resumed, and replace the pause in force."""
        before = self.pause_of(pause.handler)
        if instead_of is not ANY and before != instead_of:
            return Paused(before, before, is_done=False)
        begun = pause.begun(self._clock(), seconds)
        # As text and back: in Redis a pause is kept as text.
        after = self._drawers[pause.handler].pause = Pause.from_text(pause.handler, begun.to_text())
        self._reschedule(pause.handler, scheduled, unscheduled)
        return Paused(after, before)

    @_locked
    def resume(
        self,
        handler: str,
        *,
        instead_of: Pause = ANY,
        scheduled: Sequence[Scheduled] = (),
        unscheduled: Sequence[str] = (),
    ) -> Pause | None:
        """End the pause of a handler. Returns it; None: there was none."""
        before = self.pause_of(handler)
        if before is None or (instead_of is not ANY and before != instead_of):
            return None
        self._drawers[handler].pause = None
        self._reschedule(handler, scheduled, unscheduled)
        return before

    def _reschedule(self, name: str, scheduled: Sequence[Scheduled], unscheduled: Sequence[str]) -> None:
        for key in unscheduled:
            self.unschedule(name, key)
        for entry in scheduled:
            self.schedule(name, entry)

    @_locked
    def pauses(self, handlers: Sequence[str] | None = None) -> dict[str, Pause]:
        """Handler → its pause in force: of these handlers, or of all registered ones, sorted."""
        now = round(self._clock() * 1000)
        kept = {name: self._drawers[name].pause for name in sorted(self._handlers if handlers is None else handlers)}
        return {name: one for name, one in kept.items() if one and (one.until is None or stamp(one.until) > now)}

    @property
    def recording(self) -> Recording:
        """What this store records of runs."""
        return self._recording

    def _record(self, handler: str, entries: Sequence[Entry]) -> None:
        drawer, now = self._drawers[handler], self._clock()
        for name, text in entries:
            if name.startswith("runs:"):
                drawer.runs.append(from_text(handler, now, text))
            elif name.startswith("events:"):
                drawer.events[json.loads(text)["id"]] = text
            else:
                drawer.subjects.append((now, *subject_entry(text)))
        oldest = now - self._recording.lifetime.total_seconds()
        while drawer.runs and (len(drawer.runs) > self._recording.length or drawer.runs[0].at < oldest):
            drawer.runs.popleft()
        while len(drawer.events) > self._recording.length:
            del drawer.events[next(iter(drawer.events))]
        while drawer.subjects and (len(drawer.subjects) > self._recording.length or drawer.subjects[0][0] < oldest):
            drawer.subjects.popleft()

    @_locked
    def runs(self, handler: str, story: str, subject: str | None = None) -> list[Run]:  # noqa: ARG002
        """The recorded runs of a handler that belong to this story, oldest first."""
        return [run for run in self._drawers[handler].runs if run.story == story]

    @_locked
    def stories(self, handler: str, subject: str) -> list[str]:
        """The stories with this subject of which this handler recorded the first event, or a change of subject."""
        drawer = self._drawers[handler]
        first = [(run.at, run.story) for run in drawer.runs if run.is_first and is_subject(run.subject, subject)]
        found = [*first, *((at, story) for at, known, story in drawer.subjects if is_subject(known, subject))]
        return list(dict.fromkeys(story for _, story in sorted(found, key=itemgetter(0))))

    @_locked
    def event(self, handler: str, event: str) -> str | None:
        """An event that this handler handled, as JSON; None if it is not kept."""
        return self._drawers[handler].events.get(event)

    @_locked
    def story_of(self, handler: str, event: str) -> str | None:
        """The story of an event that this handler handled or announced."""
        return next((run.story for run in self._drawers[handler].runs if run.has_part(event)), None)

    @_locked
    def recent(self, handler: str, seconds: float, limit: int = 1000) -> list[Run]:
        """Runs whose outcome was recorded within the last ``seconds``, oldest first."""
        since = self._clock() - seconds
        found = [run for run in self._drawers[handler].runs if run.at >= since]
        return found[-limit:]

    @_locked
    def note_unheard(self, source: str, counts: Mapping[str, int]) -> None:
        """Count events that reached no queue."""
        for kind, count in counts.items():
            if kind in self._unheard or len(self._unheard) < MOST_UNHEARD:
                before = self._unheard[kind].count if kind in self._unheard else 0
                self._unheard[kind] = UnheardType(before + count, self._clock(), source)

    @_locked
    def unheard(self) -> dict[str, UnheardType]:
        """The types of events that reached no queue, sorted."""
        return dict(sorted(self._unheard.items()))

    @_locked
    def note_repair(self, text: str) -> None:
        """Append an entry to the log of repairs."""
        self._repairs.append((self._clock(), text))

    @_locked
    def repairs(self, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` entries of the log of repairs, newest first: when each was made, and its text."""
        return list(self._repairs)[: -limit - 1 : -1]

    @_locked
    def find_scheduled(self, name: str, texts: Sequence[str], most: int = MOST) -> tuple[list[Kept], bool]:
        """The messages in this schedule that contain one of the texts; True if all were looked at."""
        calendar, sought = self._drawers[name].calendar, needles(texts)
        entries = [(key, entry, entry.message) for key, entry in calendar.items() if entry.message is not None]
        found = [
            Kept(key, entry.due, message, entry.handed_out)
            for key, entry, message in entries[:most]
            if any(text in message.to_json().encode() for text in sought)
        ]
        return found, len(entries) <= most

    @_locked
    def find_letters(self, handler: str, texts: Sequence[str], most: int = MOST) -> tuple[list[str], bool]:
        """The dead letters of this handler, as JSON, that contain one of the texts; True if all were looked at."""
        letters, sought = list(self._drawers[handler].letters.values()), needles(texts)
        found = [letter for letter in letters[:most] if any(text in letter.encode() for text in sought)]
        return found, len(letters) <= most

    @_locked
    def unit(self, handler: str, unit: str) -> KeptUnit | None:
        """A unit that has begun and is not finished; None if there is none, or it is finished."""
        state = self._drawers[handler].units.get(unit)
        if state is None or state.done or not (state.settled[""] or state.deliveries or state.token):
            return None
        return KeptUnit(state.settled[""], state.deliveries, state.token, state.before, state.ended[1])

    def namespaces(self) -> list[str]:
        """One: this store has no namespaces."""
        return [""]

    def ping(self) -> None:
        """Do nothing: this store always answers."""

    def servers(self) -> dict[str, Mapping[str, Any]]:
        """None."""
        return {}

    def watch(self) -> None:
        """Do nothing: this store drops nothing."""

    def _took_part(self, claim: Claim, identity: str) -> bool:
        return self._drawers[claim.handler].took_part.get(identity, 0.0) > self._clock()

    def _unit(self, claim: Claim) -> _Unit:
        units = self._drawers[claim.handler].units
        unit = units.get(claim.unit)
        if unit is None or (unit.forgotten_at and unit.forgotten_at <= self._clock()):
            unit = units[claim.unit] = _Unit()
        return unit
