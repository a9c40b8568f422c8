"""Pauses: the handlers whose queues no worker consumes for now, or only at a given rate."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from choreo.durations import moment_of
from choreo.printing import one_line
from choreo.rates import rate_text
from choreo.store.schedule import Scheduled

#: `Pause.by` of a handler that its breaker has paused.
BREAKER = "breaker"
#: The value of `Pause.since` until the store has set it.
UNSET = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Pause:
    """
    The pause of one handler, or its slowing down: then it has a ``rate``.

    Times are in UTC, by the store's clock, in whole milliseconds.
    """

    #: The name of the handler.
    handler: str
    #: The id of the pause: no other has it. "": it has none.
    id: str = ""
    #: When it began. The store sets it.
    since: datetime = UNSET
    #: When it ends by itself; None: when it is resumed. The store sets it.
    until: datetime | None = None
    #: Why, in the words of the person.
    reason: str = ""
    #: Who: ``user@host``, or ``breaker``.
    by: str = ""
    #: Events per second that all workers together handle; None: none.
    rate: float | None = None
    #: The kind of the failures for which the breaker paused the handler; "" if it did not.
    error: str = ""
    #: How many failures of this kind came in a row.
    failures: int = 0
    #: How many events the breaker has let through since, to see whether the failures have ended.
    probes: int = 0
    #: When it lets the next one through; None: it does not.
    probe_at: datetime | None = None
    #: The node that lets an event through just now; "": none does.
    prober: str = ""

    @property
    def is_stop(self) -> bool:
        """True if no event is handled; False if they are handled at a rate."""
        return self.rate is None

    @property
    def state(self) -> str:
        """``paused``, or ``slowed to 5/s``."""
        return "paused" if self.rate is None else f"slowed to {rate_text(self.rate)}"

    def __str__(self) -> str:
        """In one line: ``payment.charge is paused since 2026-11-30 07:32:10 UTC by alice@host: gateway down``."""
        probe = f"at {self.probe_at:%H:%M:%S} UTC" if self.probe_at else ""
        return self.told(lambda moment: f"{moment:{_TIME}} UTC", probe)

    def told(self, shown: Callable[[datetime], str], when: str) -> str:
        """The same with times as ``shown``, a callback, writes them. ``when`` is for `next_probe`, if there is one."""
        until = f" until {shown(self.until)}" if self.until else ""
        by = f" by {self.who}" if self.by else ""
        why = ": ".join(one_line(text) for text in (self.error, self.reason) if text)
        reason = f": {why}" if why else ""
        probe = f"; {self.next_probe(when)}" if self.probe_at else ""
        return f"{self.handler} is {self.state} since {shown(self.since)}{until}{by}{reason}{probe}"

    @property
    def who(self) -> str:
        """Who paused the handler, for people: ``alice@host``, ``its breaker``."""
        return "its breaker" if self.by == BREAKER else one_line(self.by)

    def next_probe(self, when: str) -> str:
        """``the next probe is at 12:00:30``, where ``when`` is "at 12:00:30"; or who probes now."""
        return f"{one_line(self.prober)} probes now" if self.prober else f"the next probe is {when}"

    def begun(self, now: float, seconds: float | None) -> "Pause":
        """This pause as it begins ``now``, if it has not begun, and ends ``seconds`` later. Used by stores."""
        since = moment_of(_ms(now) / 1000) if self.since == UNSET else self.since
        until = None if seconds is None else moment_of((_ms(now) + _ms(seconds)) / 1000)
        return replace(self, since=since, until=until)

    def to_dict(self) -> dict[str, Any]:
        """As plain data for people. Times are ISO 8601."""
        record = asdict(self)
        for name in ("since", "until", "probe_at"):
            record[name] = record[name].isoformat() if record[name] else None
        return record

    def to_text(self) -> str:
        """What the store keeps: ms of ``since``, ms of ``until`` (0: none) and the rest as JSON, in one line."""
        until = stamp(self.until) if self.until else 0
        return f"{stamp(self.since)} {until} {self.to_json()}"

    def to_json(self) -> str:
        """All but the handler, ``since`` and ``until``, as JSON in one line."""
        own = {name: value for name, value in asdict(self).items() if name not in _BESIDE}
        own["probe_at"] = stamp(self.probe_at) if self.probe_at else None
        return json.dumps(own, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_text(cls, handler: str, text: str) -> "Pause":
        """
        Read `to_text`, also that of another version of choreo.

        A text that cannot be read still pauses the handler: its reason says what it is.
        """
        since, _, rest = text.partition(" ")
        until, _, record = rest.partition(" ")
        try:
            about = _known(json.loads(record))
            end = moment_of(int(until) / 1000) if int(until) else None
            return cls(handler, since=moment_of(int(since) / 1000), until=end, **about)
        except (ValueError, TypeError, AttributeError, RecursionError):
            return cls(handler, reason=f"the store has a pause that cannot be read: {text[:100]}")


_TIME = "%Y-%m-%d %H:%M:%S"
_BESIDE = {"handler", "since", "until"}


def _known(read: dict[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(Pause)} - _BESIDE
    known = {name: value for name, value in read.items() if name in names}
    if known.get("probe_at") is not None:
        known["probe_at"] = moment_of(known["probe_at"] / 1000)
    return known


def stamp(moment: datetime) -> int:
    """The milliseconds since 1970 of a moment."""
    return round((moment - UNSET) / timedelta(milliseconds=1))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


#: The default of ``instead_of``: whatever is in force.
ANY = Pause("*")


@dataclass(frozen=True, slots=True)
class Paused:
    """The answer of `Pauses.pause`."""

    #: The pause that is in force now.
    pause: Pause | None
    #: The pause that was in force before the call; None: there was none.
    before: Pause | None
    #: False if nothing was changed, since another pause was in force than ``instead_of``.
    is_done: bool = True


class Pauses(Protocol):
    """
    The pauses of handlers. Every method is one atomic decision.

    A pause ends by `resume`, or at its ``until``; then it is as none. ``scheduled`` are messages that the handler's
    schedule gets in the same step, and ``unscheduled`` ids that it loses. Neither happens if nothing is changed.
    """

    def pause(
        self,
        pause: Pause,
        seconds: float | None = None,
        *,
        instead_of: Pause | None = ANY,
        scheduled: Sequence[Scheduled] = (),
        unscheduled: Sequence[str] = (),
    ) -> Paused:
        """
        Pause a handler, for so many seconds or until it is resumed, and replace the pause in force.

        A ``since`` that is set stays, so that a pause can be changed. ``instead_of``: do nothing unless exactly this
        pause is in force; None: unless none is.
        """

    def resume(
        self,
        handler: str,
        *,
        instead_of: Pause = ANY,
        scheduled: Sequence[Scheduled] = (),
        unscheduled: Sequence[str] = (),
    ) -> Pause | None:
        """
        End the pause of a handler. Returns it; None: there was none.

        ``instead_of``: do nothing, and return None, unless exactly this pause is in force.
        """

    def pause_of(self, handler: str) -> Pause | None:
        """The pause of a handler that is in force; None: none is."""
        return self.pauses([handler]).get(handler)

    def pauses(self, handlers: Sequence[str] | None = None) -> dict[str, Pause]:
        """Handler → its pause in force: of these handlers, or of all registered ones, sorted. One round trip."""
