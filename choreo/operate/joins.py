"""Pending joins: what each waits for, since when and until when; and what to do about one that waits in vain."""

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

#: How many pending joins are asked for at a time.
PAGE = 200


@dataclass(frozen=True, slots=True)
class Arrived:
    """A part that is here, and when it came."""

    envelope: Envelope
    at: datetime


@dataclass(frozen=True, slots=True)
class Missing:
    """What a join still waits for: ``count`` more of a type; None while nothing has told how many."""

    type: str
    count: int | None = 1

    def __str__(self) -> str:
        if self.count == 1:
            return self.type
        return f"{self.type} (nothing has told how many)" if self.count is None else f"{self.count} x {self.type}"


@dataclass(frozen=True, slots=True)
class PendingJoin:
    """One join that is not settled yet, as it was when it was looked at."""

    handler: str
    key: str
    #: In the order of their arrival.
    arrived: tuple[Arrived, ...]
    missing: tuple[Missing, ...]
    #: How many of the missing parts would be enough; 0 when it is complete, and its handler runs or failed.
    needed: int
    since: datetime | None
    until: datetime
    #: Its time was up, and its handler was told.
    overdue: bool
    #: Attempts of its handler that failed.
    attempts: int
    #: Seconds for which a worker holds it at least; 0 when none does.
    lease: float

    @property
    def complete(self) -> bool:
        return self.needed == 0

    def to_json(self) -> str:
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
    """Some of the pending joins, soonest deadline first. ``after`` is where the next page begins; '' at the end."""

    joins: list[PendingJoin] = field(default_factory=list)
    after: str = ""


class Joins:
    """
    The pending joins of every handler that uses one store.

    What a join waits for is known once a worker of its service has run with this version of choreo.
    ``queue_of`` gives the name of a handler's queue.
    """

    def __init__(self, store: Store, queue_of: Callable[[str], str]) -> None:
        self._store = store
        self._queue_of = queue_of

    @property
    def handlers(self) -> list[str]:
        """Every handler that is a join, or was one."""
        return list(self._store.joins())

    def __iter__(self) -> Iterator[PendingJoin]:
        """All pending joins, handler by handler, soonest deadline first. They are asked for a few at a time."""
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
        Up to ``limit`` pending joins of one handler, soonest deadline first.

        What arrives, or is settled, while the pages are read may be missed.
        """
        description = self._description(handler)
        units, cursor = self._store.waiting(handler, limit, after)
        seen = (self._store.look(handler, unit) for unit in units)
        return Page([_pending(handler, found, description) for found in seen if found is not None], cursor)

    def find(self, key: str, handler: str | None = None) -> list[PendingJoin]:
        """The pending joins with this key: one per handler that waits for it."""
        found = []
        for name in self.handlers if handler is None else [handler]:
            waiting = self._store.look(name, unit_of(key))
            if waiting is not None:
                found.append(_pending(name, waiting, self._description(name)))
        return found

    def get(self, key: str, handler: str | None = None) -> PendingJoin:
        """The one pending join with this key. Raises `JoinError` when there is none, or more than one."""
        found = self.find(key, handler)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(join.handler for join in found)
            raise JoinError(f"{len(found)} joins wait for {key!r}: {names}. Say which handler.")
        whose = f"{handler} has no pending join {key!r}" if handler else f"No join waits for {key!r}"
        raise JoinError(
            f"{whose}: it was settled, cancelled or never begun. `choreo joins list` shows which there are."
        )

    def tally(self, handler: str) -> dict[str, int]:
        """
        How many events did not count for this handler's joins.

        "late": they came after the join was complete or settled. "duplicate": they were there already. "surplus":
        they were more than the join needs.
        """
        return {"late": 0, "duplicate": 0, "surplus": 0} | self._store.tally(handler)

    def cancel(self, key: str, reason: str, handler: str | None = None) -> PendingJoin:
        """
        Settle a join without running its handler. Parts that come later are ignored, as after ``unless``.

        What had arrived is returned, and written into the log with the reason; it is kept nowhere else.
        Raises `JoinError` when there is no such join, or a worker runs it right now.
        """
        join = self.get(key, handler)
        claim = Claim(join.handler, unit_of(key), uuid4().hex, attempt=0)
        begun = self._store.begin(claim)
        if begun.verdict is Verdict.BUSY:
            raise JoinError(
                f"{join.handler} is at work on {key!r} right now. Try again in {begun.busy_seconds:.0f} seconds."
            )
        within = float(self._description(join.handler).get("within", 0))
        settlement = Settlement(unscheduled=[deadline_id(claim.unit)], remember=within)
        if begun.verdict is Verdict.DONE or self._store.commit(claim, settlement).outcome is not Outcome.OK:
            raise JoinError(f"{join.handler} has just settled {key!r}.")
        logger.warning("%s %s was cancelled by hand: %s. What it was: %s", join.handler, key, reason, join.to_json())
        return join

    def fire(self, key: str, handler: str | None = None, *, as_timeout: bool = False) -> PendingJoin:
        """
        Run a join's handler with what has arrived: None stands for a missing part, and a list is as long as it is.

        ``as_timeout`` runs its ``on_timeout`` instead, as if its time were up. It happens on a worker of the service,
        with retries and a dead letter as usual. Raises `JoinError` when there is no such join, or its handler could
        not take what is there.
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
            raise JoinError(f"{where}: what it takes is not known, since no worker of its service has run yet.")
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
    """What is not here, and how many of those types it takes to be complete."""
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
