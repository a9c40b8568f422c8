"""
The store in memory, for unit tests and experiments: the same guarantees, within one process, until it ends.

Here are its claims, joins, series and pauses; the rest is in the files beside this one, one for each part of the store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from choreo.events.message import Message
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
from choreo.store.failures import FORGOTTEN_AFTER, Row
from choreo.store.joins import Arrival, JoinState
from choreo.store.memory_content import Drawer, Failing, Unit, Waiting, locked
from choreo.store.memory_letters import MemoryLetters
from choreo.store.memory_runs import MemoryRuns
from choreo.store.memory_services import MemoryServices
from choreo.store.memory_turns import MemorySeries
from choreo.store.parts import mark_of
from choreo.store.pauses import ANY, Pause, Paused, stamp
from choreo.store.port import Store
from choreo.store.schedule import DEADLINE_PREFIX, Scheduled, deadline_id
from choreo.store.search import KeptUnit
from choreo.store.slots import Slot
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


class MemoryStore(MemoryLetters, MemoryServices, MemoryRuns, Store):
    """
    The store in memory. See the protocols of `choreo.store` for the guarantees of each method.

    ``clock`` returns seconds since 1970. A test can pass its own, to move time. Stores with one ``content`` are one
    store for services with different ``terms``.
    """

    @locked
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

    @locked
    def release(self, claims: Sequence[Claim]) -> None:
        """Give up claims that were made ahead, as far as their handlers have not begun."""
        for claim in claims:
            unit = self._unit(claim)
            if unit.token == claim.token and not unit.deliveries:
                unit.token, unit.until = "", 0.0

    @locked
    def undo_begin(self, claims: Sequence[Claim]) -> None:
        """Take the beginnings of these claims back."""
        for claim in claims:
            unit = self._unit(claim)
            if unit.token == claim.token and unit.deliveries:
                unit.token, unit.until, unit.deliveries = "", 0.0, unit.deliveries - 1

    @locked
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
                unit = drawer.units[claim.unit] = Unit()
        elif unit.done:
            drawer.count("late", arrival)
            return ClaimResult(Verdict.DONE, note=unit.note)
        return self._gather(claim, arrival, unit, drawer)

    def _gather(self, claim: Claim, arrival: Arrival, unit: Unit, drawer: Drawer) -> ClaimResult:
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
        drawer.calendar.add(deadline, Waiting(now + arrival.within, None))
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

    @locked
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

    @locked
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

    @locked
    def tally(self, handler: str) -> dict[str, int]:
        """How many events did not count for a join, by reason."""
        return dict(self._drawers[handler].tally)

    @locked
    def describe_joins(self, descriptions: Mapping[str, str]) -> None:
        """Record the declarations of these joins: handler → JSON."""
        self._joins.update(descriptions)

    @locked
    def joins(self) -> dict[str, str]:
        """Every join that was ever described: handler → JSON."""
        return dict(sorted(self._joins.items()))

    @locked
    def take_slot(self, slot: Slot, limit: int, waiter: str) -> bool:
        """Take a slot, or wait for one."""
        lease = self.terms.lease.total_seconds()
        return self._drawers[slot.handler].slots.take(slot.token, limit, waiter, self._clock(), lease)

    @locked
    def renew_slot(self, slot: Slot) -> bool:
        """Prolong the lease of a slot. False when it is no longer taken."""
        lease = self.terms.lease.total_seconds()
        return self._drawers[slot.handler].slots.renew(slot.token, self._clock(), lease)

    @locked
    def free_slot(self, slot: Slot) -> None:
        """Give a slot up."""
        self._drawers[slot.handler].slots.taken.pop(slot.token, None)

    @locked
    def taken_slots(self, handler: str) -> list[str]:
        """The tokens of the slots that are taken."""
        slots = self._drawers[handler].slots
        slots.clear(self._clock())
        return sorted(slots.taken)

    @locked
    def enter_series(self, turn: Turn) -> None:
        """Note that an event has come."""
        if not self._is_finished(turn):
            self._series(turn).enter(turn.unit, turn.time)

    @locked
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
        self._drawers[turn.handler].calendar.add(copy, Waiting(now + ASK_AGAIN, message))
        return TurnResult(TurnVerdict.WAIT, self._called(turn, called))

    @locked
    def renew_turn(self, turn: Turn) -> bool:
        """Prolong the turn of a run. False when another event has it."""
        series, now = self._series(turn), self._clock()
        if series.holder(now) != turn.unit:
            return False
        series.give(turn.unit, now + self._running)
        return True

    @locked
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

    @locked
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

    @locked
    def forgive(self, claim: Claim) -> None:
        """Count one beginning less."""
        unit = self._unit(claim)
        unit.deliveries = max(unit.deliveries - 1, 0)

    @locked
    def record_end(self, handler: str, unit: str, text: str, tokens: Sequence[str] = ()) -> None:
        """Record how the process ended that ran this unit."""
        state = self._unit(Claim(handler, unit, ""))
        begins = tuple(token for token in tokens if token.endswith("-"))
        if state.token and (not tokens or state.token in tokens or state.token.startswith(begins)):
            state.ended = state.deliveries, text

    @locked
    def last_end(self, handler: str, unit: str) -> LastEnd:
        """What is known of the beginning before the current one."""
        state = self._unit(Claim(handler, unit, ""))
        number, text = state.ended
        return LastEnd(text if number >= state.deliveries - 1 else "", state.before)

    @locked
    def is_finished(self, handler: str, unit: str) -> bool:
        """True if the unit is finished for good, and the store remembers it."""
        return self._unit(Claim(handler, unit, "")).done

    @locked
    def returned(self, handler: str, delivery: str, by: int = 1) -> int:
        """Count one more return of a delivery that no claim counts."""
        returns = self._drawers[handler].returns
        returns[delivery] += by
        return returns[delivery]

    @locked
    def count_failure(self, handler: str, kind: str, *, anew: bool = False) -> Row:
        """Count one more failure of a handler."""
        drawer, now = self._drawers[handler], self._clock()
        row = drawer.failing
        if row is None or anew or row.last + FORGOTTEN_AFTER <= now:
            row = drawer.failing = Failing(since=now, last=now)
        return row.count(kind, now)

    @locked
    def forget_failures(self, handler: str) -> None:
        """End the row: the handler has succeeded."""
        self._drawers[handler].failing = None

    @locked
    def renew(self, claim: Claim) -> bool:
        """Prolong the lease. False when another worker has the claim, or the unit is settled."""
        unit = self._unit(claim)
        if unit.token != claim.token:
            return False
        unit.until = self._clock() + self.terms.lease.total_seconds()
        unit.forgotten_at = self._clock() + self.terms.retention.total_seconds()
        return True

    @locked
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

    @locked
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

    @locked
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

    @locked
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

    @locked
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

    @locked
    def pauses(self, handlers: Sequence[str] | None = None) -> dict[str, Pause]:
        """Handler → its pause in force: of these handlers, or of all registered ones, sorted."""
        now = round(self._clock() * 1000)
        kept = {name: self._drawers[name].pause for name in sorted(self._handlers if handlers is None else handlers)}
        return {name: one for name, one in kept.items() if one and (one.until is None or stamp(one.until) > now)}

    @locked
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

    def _unit(self, claim: Claim) -> Unit:
        units = self._drawers[claim.handler].units
        unit = units.get(claim.unit)
        if unit is None or (unit.forgotten_at and unit.forgotten_at <= self._clock()):
            unit = units[claim.unit] = Unit()
        return unit
