"""Pauses for people: pauses a handler, or all of a service, slows it down, and resumes it."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from uuid import uuid4

from choreo.delivery import alert
from choreo.delivery.ports import Ports
from choreo.delivery.undeclared import UndeclaredHandlers, is_handler, service_of
from choreo.durations import LONGEST, is_wait, moment_of
from choreo.errors import PauseError
from choreo.operate.repairs import Repairs, this_person
from choreo.rates import rate_text, read_rate
from choreo.store.pauses import ANY, Pause, Paused
from choreo.store.port import Store
from choreo.store.schedule import Scheduled

logger = logging.getLogger(__name__)

#: The longest reason that is kept.
LONGEST_REASON = 500
#: The least and the most events per second of a handler that is slowed down.
LEAST_RATE, MOST_RATE = 1 / 60, 10_000.0

#: True for the last try to replace the known pause, and no other: it replaces any. One that another version of choreo
#: has written is never exactly the known one.
_TRIES = (False, False, False, True)


class HandlerPauses:
    """
    The pauses of every handler that uses one store. Its methods raise `StoreError` when the store is away.

    A pause and its end are announced in the same step of the store: see `choreo.delivery.alert`. ``ports`` are for
    that. ``tell`` is a callback: it gets the names of services, and wakes their workers, which then look at the pauses
    at once. It raises nothing: workers also look by themselves every second.
    """

    def __init__(
        self,
        store: Store,
        undeclared: UndeclaredHandlers,
        ports: Ports,
        repairs: Repairs,
        tell: Callable[[Sequence[str]], object] = lambda _: None,
    ) -> None:
        self._store, self._undeclared, self._tell = store, undeclared, tell
        self._ports, self._repairs = ports, repairs

    def __iter__(self) -> Iterator[Pause]:
        """Iterate over the pauses in force, by handler."""
        return iter(self._store.pauses().values())

    def find(self, *names: str) -> list[Pause]:
        """Return the pauses in force: all, or those of these handlers and services. Raises `PauseError`: unknown."""
        handlers = [handler for name in names for handler in self.handlers(name)]
        return list(self._store.pauses(handlers if names else None).values())

    def get(self, handler: str) -> Pause | None:
        """Return the pause of a handler; None: it is not paused."""
        return self._store.pause_of(handler)

    def handlers(self, name: str) -> list[str]:
        """
        The handlers that a name means: this one, or all that the service of this name declares.

        Raises `PauseError` for a name that is neither.
        """
        known = self._store.handlers()
        if name in known and "." in name:
            return [name]
        gone = set(self._undeclared.names(name)) if name in known else set[str]()
        found = [one for one in known if is_handler(one) and service_of(one) == name and one not in gone]
        if found:
            return found
        raise PauseError(f"No handler or service is named {name!r}. {_hint(name, known)}")

    def pause(
        self,
        name: str,
        duration: float | timedelta | None = None,
        *,
        reason: str = "",
        rate: float | str | None = None,
        who: str = "",
    ) -> list[Paused]:
        """
        Pause a handler, or all handlers of a service: no worker takes events from their queues.

        What runs is finished. Nothing is lost: events, retries and deadlines wait in the queue. It holds for workers
        that start later, too, until `resume`; or for ``duration``, seconds or a timedelta. ``rate``, such as 5 or
        "10/m", slows the handler down instead: all workers together handle so many events. ``who`` does it, by
        default ``user@host`` of this process. A pause that is in force is replaced: see `Paused.before`.

        Raises `PauseError` for a name that no worker has registered, and for values that cannot work.
        """
        handlers = self.handlers(name)
        seconds = _checked_duration(duration)
        wish = Pause(
            "", reason=_checked_reason(reason), by=who or this_person(), rate=None if rate is None else _rate(rate)
        )
        done = [self._pause(replace(wish, handler=handler, id=uuid4().hex), seconds) for handler in handlers]
        self._tell([service_of(handlers[0])])
        return done

    def resume(self, name: str, *, reason: str = "", who: str = "") -> list[Pause]:
        """
        Resume a handler, or all handlers of a service, at full speed. Returns the pauses that have ended.

        ``reason`` and ``who`` are those of `pause`.

        Raises `PauseError` for a name that no worker has registered.
        """
        handlers = self.handlers(name)
        ended = [
            pause for handler in handlers if (pause := self._resume(handler, _checked_reason(reason), who)) is not None
        ]
        self._tell([service_of(handlers[0])])
        return ended

    def _pause(self, pause: Pause, seconds: float | None) -> Paused:
        for is_last in _TRIES:
            before = self._store.pause_of(pause.handler)
            done = self._store.pause(
                pause,
                seconds,
                instead_of=ANY if is_last else before,
                scheduled=self._alerts(pause, seconds),
                unscheduled=[] if before is None else self._ids_of_end(before),
            )
            if done.is_done:
                break
        # If it takes the place of a breaker's, what that has held waits in the queue.
        self._store.hasten_held(pause.handler)
        logger.warning("%s", done.pause)
        rate = "" if pause.rate is None else f"to {rate_text(pause.rate)}"
        reason = ": ".join(filter(None, (rate, pause.reason)))
        self._repairs.note("slowed" if rate else "paused", pause.handler, reason=reason, who=pause.by)
        return done

    def _alerts(self, pause: Pause, seconds: float | None) -> list[Scheduled]:
        """The alert of a pause; and that of its end, if it ends by itself."""
        until = None if seconds is None else moment_of(self._store.now() + seconds)
        alerts = alert.paused(
            self._ports,
            pause.handler,
            pause.id,
            reason=pause.reason,
            by=pause.by,
            until=until,
            rate=pause.rate,
        )
        if seconds is not None:
            alerts += alert.resumed(self._ports, pause.handler, pause.id, by="time", delay=seconds)
        return alerts

    def _ids_of_end(self, pause: Pause) -> list[str]:
        """The ids in the schedule of the alert that this pause has ended by itself."""
        return [entry.id for entry in alert.resumed(self._ports, pause.handler, pause.id)] if pause.until else []

    def _resume(self, handler: str, reason: str, who: str) -> Pause | None:
        for is_last in _TRIES:
            pause = self._store.pause_of(handler)
            if pause is None:
                return None
            alerts = alert.resumed(self._ports, handler, pause.id, reason=reason, by=who or this_person())
            # The alert of its end has the same id.
            unscheduled = [entry.id for entry in alerts]
            expected = ANY if is_last else pause
            ended = self._store.resume(handler, instead_of=expected, scheduled=alerts, unscheduled=unscheduled)
            if ended is not None:
                self._store.hasten_held(handler)
                self._repairs.note("resumed", handler, reason=reason, who=who)
                logger.warning("%s is resumed. It was %s", handler, str(ended).partition(" is ")[2])
                return ended
        return None


def _rate(rate: float | str) -> float:
    """Events per second. Raises `PauseError`."""
    value: float | None = math.nan
    if isinstance(rate, str):
        value = read_rate(rate if "/" in rate else f"{rate}/s")
    elif isinstance(rate, (int, float)) and not isinstance(rate, bool):
        value = float(rate)
    if value is not None and LEAST_RATE * 0.999 <= value <= MOST_RATE:
        return value
    stop = " To stop the handler, leave the rate out." if value == 0 else ""
    raise PauseError(f"rate {rate!r}: write it like 5/s or 10/m, from 1/m to {MOST_RATE:.0f}/s.{stop}")


def _checked_duration(duration: float | timedelta | None) -> float | None:
    if duration is None:
        return None
    if not is_wait(duration) or not (seconds := _seconds(duration)) >= 1:
        raise PauseError(f"a pause of {duration!r}: seconds, or a timedelta, from 1 second to {LONGEST.days} days.")
    return seconds


def _seconds(duration: float | timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


def _checked_reason(reason: str) -> str:
    if len(reason) > LONGEST_REASON:
        raise PauseError(f"a reason of {len(reason)} characters: up to {LONGEST_REASON} are kept.")
    return reason


def _hint(name: str, known: Sequence[str]) -> str:
    names = sorted({*filter(is_handler, known), *map(service_of, known)})
    ends = [one for one in names if one.rpartition(".")[2] == name.rpartition(".")[2] and "." in one]
    guesses = ends or get_close_matches(name, names, n=2, cutoff=0.75)
    if guesses:
        return f"Did you mean {' or '.join(guesses)}?"
    return f"Known are: {', '.join(names) or 'none'}. A service makes itself known when its worker starts."
