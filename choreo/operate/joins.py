"""Operations on pending joins: list, find, cancel, fire."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from choreo.delivery.signals import DEADLINE, FIRED, signal
from choreo.errors import JoinError
from choreo.events.envelope import Envelope
from choreo.store import Claim, Outcome, Scheduled, Settlement, Store, Verdict, Waiting, deadline_id
from choreo.store.parts import by_type, key_of, unit_of, unpacked

logger = logging.getLogger(__name__)

#: The most pending joins that are read from the store at a time.
PAGE = 200


@dataclass(frozen=True, slots=True)
class Arrived:
    """A part that has arrived. ``at`` is the time of its arrival by the store's clock, in UTC."""

    envelope: Envelope
    at: datetime


@dataclass(frozen=True, slots=True)
class Missing:
    """A part that a join still waits for: ``count`` more events of ``type``; None until an event has told how many."""

    type: str
    count: int | None = 1

    def __str__(self) -> str:
        if self.count == 1:
            return self.type
        return f"{self.type} (nothing has told how many)" if self.count is None else f"{self.count} x {self.type}"


@dataclass(frozen=True, slots=True)
class PendingJoin:
    """
    A join that is not settled yet, as the store had it when it was read. It does not change afterwards.

    All times are by the store's clock, in UTC.
    """

    handler: str
    key: str
    #: In the order of their arrival.
    arrived: tuple[Arrived, ...]
    #: Empty if no worker has described the join to the store yet.
    missing: tuple[Missing, ...]
    #: The number of missing types that would be enough; 0 if it is complete, and its handler runs or has failed.
    needed: int
    #: The time at which the first part arrived; None if none has.
    since: datetime | None
    #: The deadline.
    until: datetime
    #: True if the deadline has passed and the signal of it was sent to the handler.
    overdue: bool
    #: The number of attempts of its handler that failed.
    attempts: int
    #: Seconds for which a worker still holds the claim, at least; 0 if no worker runs it.
    lease: float

    @property
    def complete(self) -> bool:
        """True if no further part is needed."""
        return self.needed == 0

    def to_json(self) -> str:
        """The join as one JSON object. Times are ISO 8601, ``lease`` is in seconds."""
        record = {
            "handler": self.handler,
            "key": self.key,
            "arrived": [{"at": part.at.isoformat(), "event": part.envelope.to_wire()} for part in self.arrived],
            "missing": [{"type": part.type, "count": part.count} for part in self.missing],
            "needed": self.needed,
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat(),
            "overdue": self.overdue,
            "attempts": self.attempts,
            "lease": self.lease,
        }
        return json.dumps(record, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the pending joins, soonest deadline first. ``after`` is the cursor of the next page; "" at the end."""

    joins: list[PendingJoin] = field(default_factory=list)
    after: str = ""


class Joins:
    """
    The pending joins of every handler that uses one store. Every method raises `StoreError`.

    The missing parts of a join are known after a worker of its service has started, which describes its joins in the
    store. ``queue_of`` returns the name of a handler's queue.
    """

    def __init__(self, store: Store, queue_of: Callable[[str], str]) -> None:
        self._store = store
        self._queue_of = queue_of

    @property
    def handlers(self) -> list[str]:
        """Every handler that was ever described as a join in this store."""
        return list(self._store.joins())

    def __iter__(self) -> Iterator[PendingJoin]:
        """All pending joins, handler by handler, soonest deadline first. They are read `PAGE` at a time."""
        for handler in self.handlers:
            yield from self.of(handler)

    def of(self, handler: str) -> Iterator[PendingJoin]:
        """The pending joins of one handler, soonest deadline first."""
        after = ""
        while True:
            page = self.page(handler, PAGE, after)
            yield from page.joins
            after = page.after
            if not after:
                return

    def page(self, handler: str, limit: int = PAGE, after: str = "") -> Page:
        """
        Up to ``limit`` pending joins of one handler, soonest deadline first, from the cursor ``after`` on.

        A page can be shorter than ``limit``. A join that arrives or is settled between two pages may be missed.
        """
        description = self._description(handler)
        units, cursor = self._store.waiting(handler, limit, after)
        seen = (self._store.look(handler, unit) for unit in units)
        return Page([_pending(handler, found, description) for found in seen if found is not None], cursor)

    def find(self, key: str, handler: str | None = None) -> list[PendingJoin]:
        """The pending joins with this key: one for each handler that waits for it, or that of ``handler``."""
        found = []
        for name in self.handlers if handler is None else [handler]:
            waiting = self._store.look(name, unit_of(key))
            if waiting is not None:
                found.append(_pending(name, waiting, self._description(name)))
        return found

    def get(self, key: str, handler: str | None = None) -> PendingJoin:
        """The one pending join with this key. Raises `JoinError` if there is none, or more than one."""
        found = self.find(key, handler)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(join.handler for join in found)
            raise JoinError(f"{len(found)} joins wait for {key!r}: {names}. Say which handler.")
        whose = f"{handler} has no pending join {key!r}" if handler else f"No join waits for {key!r}"
        raise JoinError(
            f"{whose}: it was settled, cancelled or never begun. `choreo joins list` shows the pending joins."
        )

    def tally(self, handler: str) -> dict[str, int]:
        """
        The numbers of events that did not count for this handler's joins, since the store was made.

        "late": they came after the join was complete or settled. "duplicate": they had arrived before. "surplus": the
        join had enough of their type.
        """
        return {"late": 0, "duplicate": 0, "surplus": 0} | self._store.tally(handler)

    def cancel(self, key: str, reason: str, handler: str | None = None) -> PendingJoin:
        """
        Settle a join without running its handler. Parts that come later are ignored, as after ``unless``.

        Returns the join with the parts that had arrived, and logs it with the reason. It is kept nowhere else.
        Raises `JoinError` if there is no such join, or more than one, or a worker runs it right now.
        """
        join = self.get(key, handler)
        claim = Claim(join.handler, unit_of(key), uuid4().hex, attempt=0)
        begun = self._store.begin(claim)
        if begun.verdict is Verdict.BUSY:
            raise JoinError(
                f"{join.handler} {key}: a worker runs it right now. Try again in {begun.busy_seconds:.0f} seconds."
            )
        within = float(self._description(join.handler).get("within", 0))
        settlement = Settlement(unscheduled=[deadline_id(claim.unit)], remember=within)
        if begun.verdict is Verdict.DONE or self._store.commit(claim, settlement).outcome is not Outcome.OK:
            raise JoinError(f"{join.handler} has just settled {key!r}.")
        logger.warning("%s %s was cancelled by hand: %s. The join was: %s", join.handler, key, reason, join.to_json())
        return join

    def fire(self, key: str, handler: str | None = None, *, as_timeout: bool = False) -> PendingJoin:
        """
        Run a join's handler with the parts that have arrived. A missing part is None, a list may be shorter than asked.

        ``as_timeout`` runs its ``on_timeout`` instead, as if the deadline had passed. A worker of the service runs it,
        with retries and a dead letter as usual. Raises `JoinError` if there is no such join, or more than one, or its
        handler cannot be called with the parts that have arrived.
        """
        join = self.get(key, handler)
        description = self._description(join.handler)
        self._check_fire(join, description, as_timeout)
        kind, queue = DEADLINE if as_timeout else FIRED, self._queue_of(join.handler)
        source = join.handler.partition(".")[0]
        message = signal(kind, handler=join.handler, key=key, source=source, queue=queue)
        self._store.schedule(join.handler, Scheduled(f"fire:{uuid4().hex}", message))
        return join

    def _check_fire(self, join: PendingJoin, description: Mapping[str, Any], as_timeout: bool) -> None:
        where = f"{join.handler} cannot be fired for {join.key!r}"
        if not description:
            raise JoinError(f"{where}: its parts are not known, since no worker of its service has run yet.")
        if as_timeout:
            if join.complete:
                raise JoinError(f"{where} as on timeout: it is complete. Fire it without that.")
            if not description["on_timeout"]:
                raise JoinError(f"{where} as on timeout: it has no on_timeout. Cancel it, or wait.")
            return
        lacking = [part.type for part in join.missing if part.type not in description["optional"]]
        if lacking:
            instead = "fire it as on timeout" if description["on_timeout"] else "cancel it"
            raise JoinError(
                f"{where}: its handler cannot do without {', '.join(lacking)}. Make the parameter `| None`, or "
                f"{instead}."
            )

    def _description(self, handler: str) -> Mapping[str, Any]:
        text = self._store.joins().get(handler)
        return json.loads(text) if text else {}


def _pending(handler: str, waiting: Waiting, description: Mapping[str, Any]) -> PendingJoin:
    envelopes = unpacked(waiting.parts)
    times = [_moment(when) for when in waiting.arrived.values()]
    missing, needed = _missing(waiting, by_type(envelopes), description)
    return PendingJoin(
        handler=handler,
        key=key_of(waiting.unit) or waiting.unit,
        arrived=tuple(Arrived(envelope, at) for envelope, at in zip(envelopes, times, strict=True)),
        missing=missing,
        needed=needed,
        since=min(times, default=None),
        until=_moment(waiting.deadline),
        overdue=waiting.reminded,
        attempts=waiting.attempts,
        lease=waiting.lease,
    )


def _missing(
    waiting: Waiting, arrived: Mapping[str, list[Envelope]], description: Mapping[str, Any]
) -> tuple[tuple[Missing, ...], int]:
    """The missing parts, and the number of missing types that would make the join complete."""
    if not description:
        return (), 1
    missing: list[Missing] = []
    for part in description.get("parts", ()):
        here = len(arrived.get(part, ()))
        several = description["several"].get(part)
        wanted: int | None = 1 if several is None else several.get("times") or waiting.told.get(part)
        if wanted is None or here < wanted:
            missing.append(Missing(part, None if wanted is None else wanted - here))
    full = len(description.get("parts", ())) - len(missing)
    return tuple(missing), max(description.get("at_least", 0) - full, 0)


def _moment(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
