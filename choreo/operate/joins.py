"""Pending joins: lists them, and cancels or fires one by hand."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any
from uuid import uuid4

from choreo.declare.counts import needed
from choreo.declare.description import kind_in
from choreo.delivery.signals import DEADLINE, FIRED, signal
from choreo.durations import LONGEST, moment_of
from choreo.errors import JoinError
from choreo.events.envelope import Envelope
from choreo.events.redaction import redacted
from choreo.operate.parts import counts_of
from choreo.operate.repairs import Repairs
from choreo.printing import json_line, one_line
from choreo.store import Claim, JoinState, Outcome, Scheduled, Settlement, Store, Verdict, deadline_id
from choreo.store.parts import CANCELLED, by_type, key_of, unit_of, unpacked
from choreo.store.runs import Entry, Result, Run, entries, other_stories
from choreo.store.schedule import DEADLINE_PREFIX

logger = logging.getLogger(__name__)

#: The number of pending joins on a page, by default.
PAGE = 200


@dataclass(frozen=True, slots=True)
class Arrived:
    """A part of a join that has arrived."""

    envelope: Envelope
    #: The time of its arrival, in UTC by the store's clock.
    at: datetime
    #: False if the join does not wait for events of this type any more: its declaration was changed.
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Missing:
    """A part that a join still waits for."""

    #: The event type.
    type: str
    #: The number of missing events. None while the part that holds the number has not arrived.
    count: int | None = 1

    def __str__(self) -> str:
        if self.count == 1:
            return self.type
        return f"{self.type} (number not known yet)" if self.count is None else f"{self.count} x {self.type}"


@dataclass(frozen=True, slots=True)
class PendingJoin:
    """A join that is not settled yet. A snapshot: it does not change when the join does."""

    #: The name of the handler.
    handler: str
    #: The key: the subject of the events, or the value of their key field.
    key: str
    #: The parts that have arrived, in the order of their arrival.
    arrived: tuple[Arrived, ...]
    #: The parts that have not arrived.
    missing: tuple[Missing, ...]
    #: How many of the missing parts complete the join. 0: it is complete, and its handler runs or failed.
    needed: int
    #: When the first part arrived, in UTC. None if no part has arrived.
    since: datetime | None
    #: The deadline, in UTC.
    until: datetime
    #: True if the deadline has passed and the signal was sent to the handler.
    overdue: bool
    #: The number of failed attempts of the handler.
    attempts: int
    #: The seconds for which a worker still holds the lease. 0 if no worker does.
    lease: float
    #: True if its handler undoes an effect, which has arrived. What is missing is a failure, which may never come.
    is_effect: bool = False

    @property
    def complete(self) -> bool:
        """True if the join waits for no more parts."""
        return self.needed == 0

    def to_json(self, *, reveal: bool = False) -> str:
        """Return the join as one JSON object. Times are ISO 8601. ``reveal`` shows redacted fields."""
        seen = (lambda event: event) if reveal else redacted
        record = {
            "handler": self.handler,
            "key": self.key,
            "arrived": [{"at": part.at.isoformat(), "event": seen(part.envelope).to_wire()} for part in self.arrived],
            "missing": [{"type": part.type, "count": part.count} for part in self.missing],
            "needed": self.needed,
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat(),
            "overdue": self.overdue,
            "attempts": self.attempts,
            "lease": self.lease,
            "is_effect": self.is_effect,
        }
        return json_line(record)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of pending joins, soonest deadline first."""

    joins: list[PendingJoin] = field(default_factory=list)
    #: The cursor of the next page, an argument of `Joins.page`. '' on the last page.
    after: str = ""


class Joins:
    """
    The pending joins of every handler that uses one store. Its methods raise `StoreError` when the store is away.

    `PendingJoin.missing` is empty until a worker of the service has started once with this version of choreo: workers
    describe their joins to the store. ``queue_of`` is a callback: it returns the name of a handler's queue.
    """

    def __init__(self, store: Store, queue_of: Callable[[str], str]) -> None:
        self._store, self._repairs = store, Repairs(store)
        self._queue_of = queue_of

    @property
    def handlers(self) -> list[str]:
        """
        Every handler that is, or once was, a join. What the store keeps as joins, too, is left out: stories and undos.
        """
        return self._of_kind("join")

    @property
    def undos(self) -> list[str]:
        """Every handler that undoes effects. `find`, `get`, `cancel` and `fire` take its name."""
        return self._of_kind("undo")

    def _of_kind(self, kind: str) -> list[str]:
        return [handler for handler, text in self._store.joins().items() if kind_in(json.loads(text)) == kind]

    def __iter__(self) -> Iterator[PendingJoin]:
        """Iterate over all pending joins, handler by handler, soonest deadline first. Reads a page at a time."""
        for handler in self.handlers:
            yield from self.of(handler)

    def of(self, handler: str) -> Iterator[PendingJoin]:
        """Iterate over the pending joins of one handler, soonest deadline first. Reads a page at a time."""
        after = ""
        while True:
            page = self.page(handler, PAGE, after)
            yield from page.joins
            after = page.after
            if not after:
                return

    def page(self, handler: str, limit: int = PAGE, after: str = "") -> Page:
        """
        Return up to ``limit`` pending joins of one handler, soonest deadline first. ``after`` is `Page.after`.

        The next page may miss joins that begin, or are settled, while pages are read. Raises `JoinError` for an
        ``after`` that is no cursor.
        """
        if after and not is_cursor(after):
            raise JoinError(f"{after!r} is no place in a list of joins. The list before ends with the next place.")
        description = self._description(handler)
        units, cursor = self._store.pending(handler, limit, after)
        seen = (self._store.look(handler, unit) for unit in units)
        return Page([_pending(handler, found, description) for found in seen if found is not None], cursor)

    def is_by_subject(self, handler: str) -> bool:
        """True if the key of this handler's joins is the subject of each part."""
        return not any(self._description(handler).get("keys", {}).values())

    def has_on_timeout(self, handler: str) -> bool:
        """True if this handler has an ``on_timeout``, which runs for joins that are not complete at their deadline."""
        return bool(self._description(handler).get("on_timeout"))

    def find(self, key: str, handler: str | None = None) -> list[PendingJoin]:
        """Return the pending joins with this key: at most one for each handler."""
        found = []
        for name in self.handlers if handler is None else [handler]:
            state = self._store.look(name, unit_of(key))
            if state is not None:
                found.append(_pending(name, state, self._description(name)))
        return found

    def get(self, key: str, handler: str | None = None) -> PendingJoin:
        """Return the pending join with this key. Raises `JoinError` when there is none, or more than one."""
        found = self.find(key, handler)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(join.handler for join in found)
            raise JoinError(f"{len(found)} joins wait for {key!r}: {names}. Say which handler.")
        whose = f"{handler} has no pending join {key!r}" if handler else f"No join waits for {key!r}"
        raise JoinError(f"{whose}: it was settled, cancelled or never begun. `choreo joins list` shows all of them.")

    def tally(self, handler: str) -> dict[str, int]:
        """
        Return how many events did not count for the joins of this handler.

        "late": the join was complete, settled or cancelled. "duplicate": the event had arrived before. "surplus": the
        join had enough events of this type.
        """
        return {"late": 0, "duplicate": 0, "surplus": 0} | self._store.tally(handler)

    def cancel(self, key: str, reason: str, handler: str | None = None, *, who: str = "") -> PendingJoin:
        """
        Settle a join without running its handler. Parts that arrive later are ignored, as after ``unless``.

        Returns the cancelled join, and logs it with the reason. Its parts are kept nowhere else. The reason and ``who``
        are for the log of repairs, too: see `Repairs.note`.
        Raises `JoinError` when there is no such join, or a worker runs it at the moment.
        """
        join = self.get(key, handler)
        claim = Claim(join.handler, unit_of(key), uuid4().hex, attempt=0)
        result = self._store.begin(claim)
        if result.verdict is Verdict.BUSY:
            raise JoinError(
                f"A worker runs {join.handler} for {key!r} now. Try again in {result.busy_seconds:.0f} seconds."
            )
        description = self._description(join.handler)
        within = min(float(description.get("within", 0)), LONGEST.total_seconds())
        took_part = [part.envelope.identity for part in join.arrived] if description.get("rounds") else []
        settlement = Settlement(
            unscheduled=[deadline_id(claim.unit)],
            remember=within,
            note=CANCELLED,
            took_part=took_part,
            retention=float(description.get("retention", 0)),
            record=_cancelled(join, reason) if self._store.recording else (),
        )
        if result.verdict is Verdict.DONE or self._store.commit(claim, settlement).outcome is not Outcome.OK:
            raise JoinError(f"{join.handler} has just settled {key!r}.")
        logger.warning(
            "%s %s was cancelled by hand: %s. The join was: %s",
            join.handler,
            one_line(key),
            one_line(reason),
            join.to_json(),
        )
        self._repairs.note("cancelled", f"{join.handler} {join.key}", reason=reason, who=who)
        return join

    def fire(
        self, key: str, handler: str | None = None, *, as_timeout: bool = False, reason: str = "", who: str = ""
    ) -> PendingJoin:
        """
        Run the handler of a join with the parts that have arrived. A missing part is None; a list may be shorter.

        ``as_timeout`` runs ``on_timeout`` instead, as at the deadline. A worker of the service runs it, with retries
        and a dead letter as usual; this call does not wait for it. ``reason`` and ``who`` are for the log of repairs:
        see `Repairs.note`. Returns the join as it was. Raises `JoinError` when there is no such join, or its handler
        does not accept the missing parts.
        """
        join = self.get(key, handler)
        description = self._description(join.handler)
        self._check_fire(join, description, as_timeout)
        kind, queue = DEADLINE if as_timeout else FIRED, self._queue_of(join.handler)
        source = join.handler.partition(".")[0]
        now = self._store.now()
        message = signal(kind, handler=join.handler, key=key, source=source, queue=queue, now=now)
        self._store.schedule(join.handler, Scheduled(f"fire:{uuid4().hex}", message))
        self._repairs.note("fired", f"{join.handler} {join.key}", reason=reason, who=who)
        return join

    def _check_fire(self, join: PendingJoin, description: Mapping[str, Any], as_timeout: bool) -> None:
        where = f"{join.handler} cannot be fired for {join.key!r}"
        if not description:
            raise JoinError(f"{where}: its parts are not known, because no worker of its service has started yet.")
        if description.get("former"):
            raise JoinError(f"{where}: its handler is no join any more. At its deadline it becomes a dead letter.")
        if as_timeout:
            if join.complete:
                raise JoinError(
                    f"{where} as on timeout: it is complete. Fire it without --as-timeout (as_timeout=True)."
                )
            if not description["on_timeout"]:
                raise JoinError(f"{where} as on timeout: it has no on_timeout. Cancel it, or wait.")
            return
        lacking = [part.type for part in join.missing if part.type not in description["optional"]]
        if lacking:
            instead = "fire it as on timeout" if description["on_timeout"] else "cancel it"
            raise JoinError(
                f"{where}: its handler does not accept None for {', '.join(lacking)}. Make the parameter `| None`, or "
                f"{instead}."
            )

    def _description(self, handler: str) -> Mapping[str, Any]:
        text = self._store.joins().get(handler)
        return json.loads(text) if text else {}


def _cancelled(join: PendingJoin, reason: str) -> Sequence[Entry]:
    """What the record gets of a join that is cancelled by hand. Its run belongs to the stories of all parts."""
    events = [part.envelope for part in join.arrived]
    if not events:
        return ()
    last = events[-1]
    run = Run(
        event=last.id,
        story=last.correlation_id,
        subject=last.subject,
        type=last.type,
        attempt=0,
        result=Result.CANCELLED_BY_HAND,
        detail=one_line(reason),
        parts=[(event.type, event.id) for event in events],
        others=other_stories(events, last.correlation_id),
        handler=join.handler,
    )
    return entries(run)


def _pending(handler: str, state: JoinState, description: Mapping[str, Any]) -> PendingJoin:
    envelopes = unpacked(state.parts)
    times = [moment_of(when) for when in state.arrived.values()]
    missing, needed = _missing(state, by_type(envelopes), description)
    return PendingJoin(
        handler=handler,
        key=key_of(state.unit) or state.unit,
        arrived=tuple(
            Arrived(envelope, at, counts=not description or envelope.type in description["parts"])
            for envelope, at in zip(envelopes, times, strict=True)
        ),
        missing=missing,
        needed=needed,
        since=min(times, default=None),
        until=moment_of(state.deadline),
        overdue=state.is_overdue,
        attempts=state.attempts,
        lease=state.lease,
        is_effect="undo" in description,
    )


def _missing(
    state: JoinState, arrived: Mapping[str, list[Envelope]], description: Mapping[str, Any]
) -> tuple[tuple[Missing, ...], int]:
    """Return the missing parts, and how many of them complete the join."""
    if not description:
        return (), 1
    missing: list[Missing] = []
    asked = description["several"]
    if undo := description.get("undo"):
        # One failure is enough, and there may be none for ever.
        lacking = [] if any(kind in arrived for kind in undo["failures"]) else undo["failures"]
        return tuple(map(Missing, lacking)), min(len(lacking), 1)
    counts = {**state.counts, **counts_of(list(chain.from_iterable(arrived.values())), description)}
    for part in description.get("parts", ()):
        here, wanted = len(arrived.get(part, ())), needed(part, asked, counts)
        if wanted is None or here < wanted:
            missing.append(Missing(part, None if wanted is None else wanted - here))
    full = len(description.get("parts", ())) - len(missing)
    return tuple(missing), max(description.get("at_least", 0) - full, 0)


def is_cursor(text: str) -> bool:
    """True for a cursor of a page of joins or stories."""
    score, _, last = text.partition(" ")
    try:
        return math.isfinite(float(score)) and last.startswith(DEADLINE_PREFIX)
    except ValueError:
        return False
