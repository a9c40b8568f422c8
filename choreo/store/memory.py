"""The store in memory, for unit tests and experiments: the same guarantees, within one process, until it ends."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from heapq import heappop, heappush
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
    Settlement,
    Verdict,
)
from choreo.store.joins import Arrival, JoinState
from choreo.store.parts import mark_of
from choreo.store.port import Store
from choreo.store.presence import MOST_GONE, MOST_SEEN, SEEN_FOR, Presence, Program
from choreo.store.register import MOST_UNHEARD, Declared, Listening, UnheardType
from choreo.store.runs import Recording, Run, entries, from_text, is_subject, subject_entry
from choreo.store.schedule import DEADLINE_PREFIX, Backlog, Scheduled, Unreadable, deadline_id
from choreo.store.search import MOST, Kept, KeptUnit, needles
from choreo.store.terms import Terms

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
class _Register:
    """The workers of one service with their bindings, and all bindings that may exist."""

    workers: dict[str, tuple[float, frozenset[Binding]]] = field(default_factory=dict)
    bindings: set[Binding] = field(default_factory=set)
    was_declared: bool = False


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
class _Drawer:
    """The state of one handler, or of another name that has a schedule."""

    units: dict[str, _Unit] = field(default_factory=dict)
    parts: dict[str, _Gathering] = field(default_factory=lambda: defaultdict(_Gathering))
    calendar: _Calendar = field(default_factory=_Calendar)
    letters: dict[str, str] = field(default_factory=dict)
    #: Dead letter → when it was recorded; also those that are gone.
    letter_times: dict[str, float] = field(default_factory=dict)
    tally: Counter[str] = field(default_factory=Counter)
    #: Delivery → how often it came back: see `Claims.returned`.
    returns: Counter[str] = field(default_factory=Counter)
    #: Identities of events that took part in a round of a join → the time until which that is remembered.
    took_part: dict[str, float] = field(default_factory=dict)
    #: The record of runs, oldest first.
    runs: deque[Run] = field(default_factory=deque)
    #: Time, subject and story of each entry of the record that leads from another subject to a story.
    subjects: deque[tuple[float, str, str]] = field(default_factory=deque)

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
    registers: dict[str, _Register] = field(default_factory=lambda: defaultdict(_Register))
    rolls: dict[str, _Roll] = field(default_factory=lambda: defaultdict(_Roll))
    joins: dict[str, str] = field(default_factory=dict)
    unheard: dict[str, UnheardType] = field(default_factory=dict)
    tended: dict[str, float] = field(default_factory=dict)


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
        self._lock = content.lock
        self._drawers = content.drawers
        self._handlers = content.handlers
        self._registers = content.registers
        self._rolls = content.rolls
        self._joins = content.joins
        self._unheard = content.unheard
        self._tended = content.tended

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
        if unit.deliveries and unit.token != claim.token:
            unit.before = unit.token
        unit.deliveries += unit.token != claim.token or not unit.deliveries
        unit.token, unit.until = claim.token, now + self.terms.lease.total_seconds()
        unit.forgotten_at = now + self.terms.retention.total_seconds()
        poisonous = unit.deliveries > self.terms.max_deliveries
        gathering = self._drawers[claim.handler].parts.get(claim.unit)
        parts = gathering.texts if gathering else {}
        return ClaimResult(Verdict.POISON if poisonous else Verdict.RUN, unit.deliveries, parts=parts)

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
    def returned(self, handler: str, delivery: str, by: int = 1) -> int:
        """Count one more return of a delivery that no claim counts."""
        returns = self._drawers[handler].returns
        returns[delivery] += by
        return returns[delivery]

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
            drawer.letters[settlement.letter[0]] = settlement.letter[1]
            drawer.letter_times[settlement.letter[0]] = self._clock()
        for unwanted in settlement.unscheduled:
            drawer.calendar.pop(unwanted, None)
        for scheduled in settlement.scheduled:
            self.schedule(claim.handler, scheduled)
        for key, message in settlement.sent.items():
            self.schedule(claim.handler, Scheduled(key, message, OUTBOX_GRACE))
        if settlement.run is not None:
            self._record(claim.handler, settlement.run)
        return CommitResult(Outcome.OK, settlement.sent)

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
    def upcoming(self, name: str, seconds: float, limit: int) -> list[tuple[str, float]]:
        """Ids of entries that fall due within so many seconds, and when: the first ``limit`` of them."""
        now = self._clock()
        entries = [(entry.due, key) for key, entry in self._drawers[name].calendar.items() if not entry.was_sent]
        return [(key, due) for due, key in sorted(entries) if now < due <= now + seconds][:limit]

    @_locked
    def add_letter(self, handler: str, letter_id: str, letter: str, scheduled: Sequence[Scheduled] = ()) -> None:
        """Record a dead letter outside any unit."""
        self._drawers[handler].letters[letter_id] = letter
        self._drawers[handler].letter_times[letter_id] = self._clock()
        for entry in scheduled:
            self.schedule(handler, entry)

    @_locked
    def letters(self, handler: str) -> list[str]:
        """The dead letters of a handler as JSON, oldest first."""
        return list(self._drawers[handler].letters.values())

    @_locked
    def letter_count(self, handler: str) -> int:
        """The number of dead letters of a handler."""
        return len(self._drawers[handler].letters)

    @_locked
    def letter_times(self, handler: str) -> tuple[float, float] | None:
        """When the oldest and newest letter of a handler were recorded, in seconds since 1970; None: it has none."""
        drawer = self._drawers[handler]
        times = [at for key, at in drawer.letter_times.items() if key in drawer.letters]
        return (min(times), max(times)) if times else None

    @_locked
    def newest_letters(self, handler: str, limit: int) -> list[tuple[float, str]]:
        """The newest ``limit`` letters of a handler, oldest first: when each was recorded, and its JSON."""
        drawer = self._drawers[handler]
        return [(drawer.letter_times[key], letter) for key, letter in list(drawer.letters.items())[-limit:]]

    @_locked
    def letter(self, handler: str, letter_id: str) -> str | None:
        """One dead letter as JSON; None if there is none with this id."""
        return self._drawers[handler].letters.get(letter_id)

    @_locked
    def discard(self, handler: str, letter_id: str) -> bool:
        """Remove a dead letter. False when there was none."""
        return self._drawers[handler].letters.pop(letter_id, None) is not None

    @_locked
    def replay(
        self,
        handler: str,
        letter_id: str,
        unit: str | None,
        parts: Mapping[str, str],
        scheduled: Scheduled,
    ) -> bool:
        """Remove a dead letter, forget that its unit was settled, and schedule its message. False if there was none."""
        drawer = self._drawers[handler]
        waiting = drawer.parts.get(unit) if unit is not None else None
        if (waiting is not None and waiting.parts) or drawer.letters.pop(letter_id, None) is None:
            return False
        if unit is not None:
            drawer.units.pop(unit, None)
            gathering, now = drawer.parts[unit], self._clock()
            for name, text in parts.items():
                if name.startswith("?"):
                    gathering.counts[name[1:]] = int(text)
                else:
                    gathering.parts.setdefault(name, (now, text))
        self.schedule(handler, scheduled)
        return True

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
        register, now = self._registers[service], self._clock()
        workers = {name: entry for name, entry in register.workers.items() if entry[0] > now}
        known = workers.pop(worker, None) is not None
        if ttl > 0:
            workers[worker] = now + ttl, frozenset(bindings)
            register.bindings.update(bindings)
            register.was_declared |= bool(bindings)
        register.workers = workers
        live = frozenset[Binding]().union(*(declared for _, declared in workers.values()))
        register.bindings.difference_update(set(removed) - live)
        return Declared(
            known=known,
            stale=sorted(register.bindings - live),
            to_restore=sorted(set(removed) & live),
        )

    @_locked
    def declared(self, service: str) -> dict[str, list[Binding]]:
        """The live workers of a service, and the bindings that each declares."""
        workers, now = self._registers[service].workers, self._clock()
        return {name: sorted(bindings) for name, (until, bindings) in workers.items() if until > now}

    @_locked
    def listening(self, service: str) -> Listening | None:
        """The queues of this service that events reach; None if no worker of it has ever called `declare`."""
        register, now = self._registers[service], self._clock()
        live = [bindings for until, bindings in register.workers.values() if until > now]
        if not live and not register.was_declared:
            return None
        workers = [frozenset(queue for queue, _ in bindings) for bindings in live]
        return Listening(frozenset(register.bindings), workers)

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

    @property
    def recording(self) -> Recording:
        """What this store records of runs."""
        return self._recording

    def _record(self, handler: str, run: Run) -> None:
        drawer, now = self._drawers[handler], self._clock()
        # As text and back: in Redis a run is kept as text.
        for name, text in entries(run):
            if name.startswith("runs:"):
                drawer.runs.append(from_text(handler, now, text))
            else:
                drawer.subjects.append((now, *subject_entry(text)))
        oldest = now - self._recording.lifetime.total_seconds()
        while drawer.runs and (len(drawer.runs) > self._recording.length or drawer.runs[0].at < oldest):
            drawer.runs.popleft()
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
    def find_scheduled(self, name: str, texts: Sequence[str], most: int = MOST) -> tuple[list[Kept], bool]:
        """The messages in this schedule that contain one of the texts; True if all were looked at."""
        entries = [
            Kept(key, entry.due, entry.message)
            for key, entry in self._drawers[name].calendar.items()
            if entry.message is not None
        ]
        sought = needles(texts)
        texts_of = {entry.id: entry.message.to_json().encode() for entry in entries[:most]}
        found = [entry for entry in entries[:most] if any(text in texts_of[entry.id] for text in sought)]
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
