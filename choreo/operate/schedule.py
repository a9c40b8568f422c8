"""The schedule for people: lists what is sent later, lets an entry fall due now, or drops one."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from heapq import merge
from itertools import islice
from typing import Any
from uuid import uuid4

from choreo.broker.queued import event_in
from choreo.declare.join import age
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.notice import log_dead_letter, messages_about
from choreo.delivery.ports import Sender
from choreo.delivery.signals import ABANDONED, SIGNALS
from choreo.delivery.undeclared import service_of
from choreo.durations import LONGEST, moment_of
from choreo.errors import ScheduleError
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.events.naming import OWN_TYPES
from choreo.events.redaction import redacted
from choreo.operate.repairs import Repairs, this_person
from choreo.printing import one_line
from choreo.store import Claim, Outcome, Scheduled, Settlement, Store, Verdict, deadline_id
from choreo.store.claims import OUTBOX_GRACE
from choreo.store.parts import is_demanded, key_of, mark_of, read_address, unit_of, unpacked
from choreo.store.runs import Result, Run, entries, other_stories
from choreo.store.schedule import DEADLINE_PREFIX, DELAYED, Hurried, Kept, entry_mark

logger = logging.getLogger(__name__)

#: Seconds. The time of a delayed event is that of its entry; that of an event in the outbox is longer ago than this.
CLOSE = OUTBOX_GRACE / 2

_is_id = re.compile(r"[0-9a-f]{10}").fullmatch


class Kind(StrEnum):
    """What an entry of the schedule is for."""

    #: The next attempt of a handler, also one that waits for another worker or for a breaker to close.
    RETRY = "retry"
    #: The time at which a join or a declared story ends if it is not complete.
    DEADLINE = "deadline"
    #: A delayed event.
    DELAYED = "delayed"
    #: A replayed dead letter, or an event that is handled again, on the way to its handler.
    REPLAY = "replay"
    #: An event that waits until another one of its key is handled (``sequential_by``). At its time it asks again.
    TURN = "turn"
    #: Another message on its way: an announced event after a crash, a notice of a dead letter, a signal to a join.
    OTHER = "other"


#: The beginning of the id of an entry → its kind.
_KINDS = {
    "retry": Kind.RETRY,
    "busy": Kind.RETRY,
    "held": Kind.RETRY,
    "turn": Kind.TURN,
    "deadline": Kind.DEADLINE,
    "event": Kind.DELAYED,
    "replay": Kind.REPLAY,
    "rerun": Kind.REPLAY,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the schedule. A snapshot: it does not change when the entry does."""

    #: Ten hexadecimal digits, by which `Schedules.now` and `Schedules.drop` know it.
    id: str
    #: The name of the schedule: a handler, another queue of a service, or "delayed".
    handler: str
    #: The id in the store.
    key: str
    kind: Kind
    #: When it falls due, in UTC by the store's clock.
    due: datetime
    #: True if that time has come: it waits for a worker.
    is_due: bool
    #: True if a worker was given it, and may be sending it.
    is_leaving: bool
    #: What it is about: the subject of the event, or the key of the join. "" if that is not known.
    subject: str
    #: The event. None: a deadline has none, or it cannot be read.
    event: Envelope | None = None
    message: Message | None = None
    #: The attempt that it leads to, from 1; 0 for none.
    attempt: int = 0
    #: The error of the attempt before; "" if there was none, or it is not recorded.
    error: str = ""

    @property
    def type(self) -> str:
        """The type of the event; "" if there is none."""
        return self.event.type if self.event else ""

    @property
    def is_droppable(self) -> bool:
        """True if `Schedules.drop` takes an entry of this kind."""
        return self.kind in (Kind.RETRY, Kind.REPLAY, Kind.DELAYED, Kind.TURN)

    def to_json(self) -> str:
        """Return the entry as one JSON object. Times are ISO 8601."""
        record = {
            "id": self.id,
            "handler": self.handler,
            "kind": self.kind,
            "due": self.due.isoformat(timespec="milliseconds"),
            "is_due": self.is_due,
            "is_leaving": self.is_leaving,
            "subject": self.subject,
            "type": self.type,
            "attempt": self.attempt,
            "error": self.error,
            "event": redacted(self.event).to_wire() if self.event else None,
        }
        return json.dumps(record)


@dataclass(frozen=True, slots=True)
class Dropped:
    """What became of a dropped entry."""

    #: The entry, with its event.
    entry: Entry
    #: The dead letter that its event is now. None for a delayed event: that is kept nowhere.
    letter: DeadLetter | None = None


class Schedules:
    """
    The schedules of every service that uses one store. Its methods raise `StoreError` when the store is away.

    ``sender`` makes the messages about dead letters.
    """

    def __init__(self, store: Store, sender: Sender, repairs: Repairs) -> None:
        self._store, self._sender, self._repairs = store, sender, repairs

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The names of all schedules: those of handlers and services, and "delayed"."""
        return [*self._store.handlers(), DELAYED]

    def page(self, *names: str, subject: str = "", limit: int = 50, after: str = "") -> tuple[list[Entry], str]:
        """
        Return up to ``limit`` entries, soonest first, and the cursor of the next page, an argument ``after``; "" at the
        end.

        Of all schedules, or those of these services, handlers or "delayed"; with ``subject``, only the entries about
        it. Raises `ScheduleError` for an ``after`` that is no cursor.
        """
        place, chosen = _place(after), self._chosen(names)
        found = self._about(chosen, subject, place) if subject else self._soonest(chosen, limit + 1, place)
        rows = list(islice(found, limit + 1))
        now = self._store.now()
        shown = [self._entry(name, kept, now) for name, kept in rows[:limit]]
        return shown, _cursor(*rows[limit - 1]) if len(rows) > limit > 0 else ""

    def find(self, what: str, *names: str) -> list[Entry]:
        """Return the entry with this id; or the entries about this subject, event or story, soonest first."""
        chosen, now = self._chosen(names), self._store.now()
        if _is_id(what):
            for name in chosen:
                if (found := self._store.find_entry(name, what)) is not None:
                    return [self._entry(name, found, now)]
        return [self._entry(name, kept, now) for name, kept in self._about(chosen, what, None, is_any_id=True)]

    def get(self, entry_id: str) -> Entry:
        """Return the entry with this id. Raises `ScheduleError` when there is none."""
        for entry in self.find(entry_id) if _is_id(entry_id) else ():
            if entry.id == entry_id:
                return entry
        raise ScheduleError(
            f"The schedule has no entry {entry_id!r}: it was sent or dropped, or there never was one. `choreo schedule "
            f"list` shows all of them."
        )

    # -- changing ----------------------------------------------------------------------------------------------------

    def now(self, entry_id: str, reason: str = "", who: str = "") -> Entry:
        """
        Let an entry fall due now. A worker of the service sends it within a quarter of a second.

        At its deadline a join calls ``on_timeout``, or becomes a dead letter; a declared story is announced as overdue.
        Returns the entry as it was. Raises `ScheduleError` when there is no such entry, or a worker sends it just now.
        """
        entry = self.get(entry_id)
        self._hurry(entry)
        self._repairs.note("hurried", _target(entry), reason=reason, who=who)
        return entry

    def _hurry(self, entry: Entry) -> None:
        result = self._store.hurry(entry.handler, entry.key)
        if result is Hurried.GONE:
            raise _gone(entry)
        if result is Hurried.LEAVING:
            raise ScheduleError(f"{_named(entry)} leaves already: a worker is just sending it.")

    def drop(self, entry_id: str, reason: str = "", who: str = "") -> Dropped:
        """
        Remove an entry from the schedule.

        A retry becomes a dead letter of reason ``dropped``, which can be replayed or discarded; its service is told as
        of any dead letter. A delayed event is not announced; it is returned, logged as a warning, and kept nowhere.
        Raises `ScheduleError` for an entry of another kind, for one that does not exist or has just left, and while a
        worker has its unit.
        """
        entry = self.get(entry_id)
        if not entry.is_droppable:
            raise ScheduleError(f"{_named(entry)} cannot be dropped. {_instead(entry)}")
        dropped = self._call_off(entry, reason) if entry.kind is Kind.DELAYED else self._bury(entry, reason, who)
        self._repairs.note("dropped", _target(entry), reason=reason, who=who)
        return dropped

    def _call_off(self, entry: Entry, reason: str) -> Dropped:
        if not self._store.unschedule(entry.handler, entry.key):
            raise _gone(entry)
        event = json.dumps(redacted(entry.event).to_wire()) if entry.event else entry.key
        logger.warning("%s was dropped by hand: %s. It was: %s", _named(entry), one_line(reason) or "no reason", event)
        return Dropped(entry)

    def _bury(self, entry: Entry, reason: str, who: str) -> Dropped:
        """
        Make a dead letter of the event, and finish its unit, in one step.

        The claim keeps workers away meanwhile. A message that has left nevertheless finds the unit finished.
        """
        event, message = entry.event, entry.message
        if event is None or message is None:
            raise ScheduleError(f"{_named(entry)} cannot be dropped: its message cannot be read.")
        description = self._description(entry.handler)
        if "story" in description:
            raise ScheduleError(f"{_named(entry)} belongs to a declared story: `choreo stories forget` ends it.")
        claim = Claim(entry.handler, _unit_of(event, entry, description), uuid4().hex, attempt=0)
        result = self._store.begin(claim)
        if result.verdict is Verdict.BUSY:
            raise ScheduleError(
                f"{_named(entry)} is in the hands of a worker. Try again in {max(result.busy_seconds, 1):.0f} seconds."
            )
        is_apart = key_of(claim.unit) is not None and _is_apart(event, result.parts)
        if result.verdict is Verdict.DONE and not (is_apart and description.get("rounds")):
            raise _gone(entry)
        by = who or this_person()
        if is_apart:
            return self._bury_apart(entry, event, message, claim, result.verdict, by, reason, description)
        letter = self._letter(entry, event, message, claim, result.parts, by, reason)
        return self._buried(entry, letter, claim, self._burial(entry, letter, description))

    def _bury_apart(
        self,
        entry: Entry,
        event: Envelope,
        message: Message,
        claim: Claim,
        verdict: Verdict,
        who: str,
        reason: str,
        description: Mapping[str, Any],
    ) -> Dropped:
        """Make a dead letter of an event that is no part of the pending join: it was held for the next round, say."""
        if verdict is not Verdict.DONE:
            self._store.commit(claim, Settlement(done=False))  # the join stays as it is
        letter = self._letter(entry, event, message, replace(claim, unit=""), {}, who, reason)
        once = event.identity if description.get("rounds") else ""
        own = Claim(entry.handler, f"letter:{letter.id}", uuid4().hex, attempt=0, once=once)
        if self._store.begin(own).verdict is Verdict.DONE:
            raise _gone(entry)
        return self._buried(entry, letter, own, replace(self._burial(entry, letter, description), done=False))

    def _buried(self, entry: Entry, letter: DeadLetter, claim: Claim, settlement: Settlement) -> Dropped:
        if self._store.commit(claim, settlement).outcome is not Outcome.OK:
            raise _gone(entry)
        log_dead_letter(letter)
        return Dropped(entry, letter)

    def _letter(
        self,
        entry: Entry,
        event: Envelope,
        message: Message,
        claim: Claim,
        parts: Mapping[str, str],
        who: str,
        reason: str,
    ) -> DeadLetter:
        said = f": {one_line(reason)}" if reason else ""
        last = f"; attempt {entry.attempt - 1} failed: {entry.error}" if entry.error else ""
        envelopes = tuple(sorted(unpacked(parts), key=age)) if key_of(claim.unit) is not None else (event,)
        return DeadLetter(
            service=service_of(entry.handler),
            handler=entry.handler,
            reason=Reason.DROPPED,
            error=f"dropped by {who}{said}{last}",
            attempts=max(entry.attempt - 1, 0),
            unit=claim.unit or None,
            envelopes=envelopes,
            message=message,
            failed_at=moment_of(self._store.now()),
        )

    def _burial(self, entry: Entry, letter: DeadLetter, description: Mapping[str, Any]) -> Settlement:
        about = messages_about(letter, self._sender)
        settlement = Settlement(
            letter=(letter.id, letter.to_json(), letter.card),
            unscheduled=[entry.key],
            scheduled=[Scheduled(key, message) for key, message in about.items()],
            record=_recorded(entry, letter) if self._store.recording else (),
        )
        if key_of(letter.unit or "") is not None:
            identities = [envelope.identity for envelope in letter.envelopes]
            settlement.unscheduled = [entry.key, deadline_id(letter.unit or "")]
            settlement.note = " ".join(map(mark_of, identities)) or "1"
            settlement.remember = min(float(description.get("within", 0)), LONGEST.total_seconds())
            settlement.retention = float(description.get("retention", 0))
            settlement.took_part = identities if description.get("rounds") else []
        return settlement

    # -- reading -----------------------------------------------------------------------------------------------------

    def _chosen(self, names: Sequence[str]) -> list[str]:
        """These schedules, or all, without those that are empty."""
        chosen = [name for name in self.names if not names or name in names or service_of(name) in names]
        return self._store.with_entries(chosen)

    def _soonest(self, names: Iterable[str], limit: int, place: tuple[float, str, str]) -> Iterator[tuple[str, Kept]]:
        """The first entries of these schedules after this place."""
        pages = [[(name, kept) for kept in self._store.entries(name, limit, _after(name, place))] for name in names]
        return merge(*pages, key=_order)

    def _about(
        self, names: Iterable[str], what: str, place: tuple[float, str, str] | None, *, is_any_id: bool = False
    ) -> Iterator[tuple[str, Kept]]:
        """The entries about a subject after this place; with ``is_any_id``, also about an event or a story."""
        found = [(name, kept) for name in names for kept in self._matching(name, what, is_any_id=is_any_id)]
        return (one for one in sorted(found, key=_order) if place is None or _order(one) > place)

    def _matching(self, name: str, what: str, *, is_any_id: bool) -> Iterator[Kept]:
        deadline = self._store.look(name, unit_of(what)) if name != DELAYED else None
        if deadline is not None and not deadline.is_overdue:
            yield Kept(deadline_id(deadline.unit), deadline.deadline, None)
        for kept in self._store.find_scheduled(name, [what])[0]:
            event = _event_of(kept)
            if event is not None and what in (
                (event.subject, event.id, event.correlation_id) if is_any_id else (event.subject,)
            ):
                yield kept

    def _entry(self, name: str, kept: Kept, now: float) -> Entry:
        message = kept.message if isinstance(kept.message, Message) else None
        event, kind = _event_of(kept), _kind_of(kept)
        is_attempt = kind in (Kind.RETRY, Kind.REPLAY, Kind.TURN) and message is not None
        deadline = key_of(kept.id.removeprefix(DEADLINE_PREFIX)) if kind is Kind.DEADLINE else None
        return Entry(
            id=entry_mark(name, kept.id),
            handler=name,
            key=kept.id,
            kind=kind,
            due=moment_of(kept.due),
            is_due=kept.due <= now,
            is_leaving=kept.is_leaving,
            subject=deadline if deadline is not None else event.subject if event else "",
            event=event,
            message=message,
            attempt=message.retries + 1 if is_attempt and message else 0,
            error=self._last_error(name, event, message.retries) if is_attempt and event and message else "",
        )

    def _last_error(self, handler: str, event: Envelope, attempt: int) -> str:
        """The error of this attempt, as far as it is recorded."""
        if not attempt:
            return ""
        runs = self._store.runs(handler, event.correlation_id, event.subject)
        found = [
            run for run in runs if run.attempt == attempt and run.has_part(event.id) and run.result is Result.RETRY
        ]
        return found[-1].detail if found else ""

    def _description(self, handler: str) -> Mapping[str, Any]:
        """The description of a join or a declared story; empty for another handler."""
        text = self._store.joins().get(handler)
        return json.loads(text) if text else {}


def _event_of(kept: Kept) -> Envelope | None:
    """The event of an entry; None if it has none, or none that can be read."""
    if isinstance(kept.message, Message):
        with suppress(Exception):  # a message of another program
            event, _ = read_address(event_in(kept.message.body, kept.message.headers))
            return event if event.id and event.type else None
    return None


def _kind_of(kept: Kept) -> Kind:
    kind = _KINDS.get(kept.id.partition(":")[0], Kind.OTHER)
    event = _event_of(kept) if kind is Kind.DELAYED else None
    return Kind.OTHER if kind is Kind.DELAYED and (event is None or _is_announced(event, kept)) else kind


def _is_announced(event: Envelope, kept: Kept) -> bool:
    """True for an event that has been announced, and is in the schedule in case that its worker dies."""
    return event.type in OWN_TYPES or (not kept.is_leaving and kept.due - event.time.timestamp() > CLOSE)


def _unit_of(event: Envelope, entry: Entry, description: Mapping[str, Any]) -> str:
    """The unit of an attempt: that of the join whose key the message names, or the event's."""
    assert entry.message is not None
    if not description or description.get("former") or is_demanded(event):
        return event.identity
    _, key = read_address(event_in(entry.message.body, entry.message.headers))
    return unit_of(event.subject if key is None else key)


def _is_apart(event: Envelope, parts: Mapping[str, str]) -> bool:
    """True for an event that is none of a join's parts, and no signal to it."""
    return event.type not in SIGNALS and event.identity not in [part.identity for part in unpacked(parts)]


def _recorded(entry: Entry, letter: DeadLetter) -> Sequence[tuple[str, str]]:
    """What the record gets of the end of the unit. Its run belongs to the stories of all parts of a join."""
    if not letter.envelopes:
        return ()
    last = letter.envelopes[-1]
    parts = letter.envelopes if key_of(letter.unit or "") is not None else ()
    run = Run(
        event=last.id,
        story=last.correlation_id,
        subject=last.subject,
        type=last.type,
        attempt=letter.attempts,
        result=Result.DEAD,
        detail=f"{letter.id} {one_line(letter.error)}",
        parts=[(part.type, part.id) for part in parts],
        others=other_stories(parts, last.correlation_id),
        handler=entry.handler,
    )
    return entries(run)


def _named(entry: Entry) -> str:
    about = f" of {one_line(entry.subject)}" if entry.subject else ""
    where = "" if entry.handler == DELAYED else f" ({one_line(entry.handler)})"
    return f"The {entry.kind} {entry.id}{about}{where}"


def _target(entry: Entry) -> str:
    return f"{entry.kind} of {entry.subject or entry.type or entry.key} ({entry.handler})"


def _instead(entry: Entry) -> str:
    if entry.kind is Kind.DEADLINE:
        return (
            f"A join without a deadline would wait for ever. `choreo joins cancel` forgets the join, and `choreo "
            f"schedule now {entry.id}` ends it now."
        )
    what = "end of an overdue story" if entry.event and entry.event.type == ABANDONED else "message"
    return f"It is a {what} that choreo itself needs, and leaves by itself."


def _gone(entry: Entry) -> ScheduleError:
    return ScheduleError(f"{_named(entry)} has just left, or was dropped by somebody else.")


# -- the order of entries ------------------------------------------------------------------------------------------


def _order(found: tuple[str, Kept]) -> tuple[float, str, str]:
    name, kept = found
    return kept.due, name, kept.id


def _after(name: str, place: tuple[float, str, str]) -> tuple[float, str]:
    """Where the page of one schedule begins, if that of all begins after this place."""
    due, last_name, last = place
    if name == last_name:
        return due, last
    return (due, "") if name > last_name else (due, "\U0010ffff")


def _cursor(name: str, kept: Kept) -> str:
    return f"{kept.due!r} {name} {kept.id}"


def _place(cursor: str) -> tuple[float, str, str]:
    if not cursor:
        return 0.0, "", ""
    with suppress(ValueError):
        due, name, last = cursor.split(" ", 2)
        return float(due), name, last
    raise ScheduleError(f"{cursor!r} is no place in the schedule. The list before ends with the next place.")
