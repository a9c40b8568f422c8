"""
The outage breaker: pauses a handler while nothing that it does succeeds, and lets it go on once something does.

::

    closed ──(enough failures in a row)──> open: paused on all workers ──(probe_at has passed)──> probing: one event
       ^                                      ^                                                      │
       │                                      └────────── it fails: wait twice as long ──────────────┤
       └───────────────────────────────────────────────── it succeeds ───────────────────────────────┘

*Kind of failure.* The type of the error and the place in the user's own code where it was raised, with its message:
`choreo.delivery.cause`. An outage often shows several (refused, then timed out). Each kind is counted in a row of its
own, and an event whose last attempt fails opens the breaker also if the failures were of several kinds.

*What counts.* Errors that the handler's `choreo.Retry` retries, and time limits. Not `choreo.PermanentFailure`,
``never`` and `choreo.RetryLater`: these are answers of the handler. They neither count nor end the row, and a probe
that ends with one closes the breaker.

*In a row.* The store counts for all workers, where something fails. A success writes nothing for the breaker: before
it opens, the worker reads the handler's record of runs, and any success since shortly before the first failure ends
the row. If the run of a success is not recorded (``choreo_record_length = 0``, ``choreo_record_sample``), it ends the
row if its process has failed before.

*Open.* The breaker is a pause (`choreo.store.pauses`) of which `Pause.by` is `BREAKER`, so workers, commands and pages
treat it as any other. No attempt that fails counts as one: it is settled as no attempt, and the event waits in the
schedule until the breaker closes, or `HELD` seconds. So a queue holds events that have not failed, and these are probed
first: what opened the breaker may be poison, and would stand before all that comes later. Retries that fall due wait in
the schedule, too.

*Probing.* Any worker takes the right to probe by putting off `Pause.probe_at` by `LEASE`, and renews that while the
event runs. So there is one probe at a time, and if the prober dies another worker follows. A probe that fails with any
error that counts keeps the breaker open, also with another kind: the handler has not been seen to work.

*Closed again.* The handler goes on at full speed: its pool and `rate_limit` bound it as ever, and if it fails again, it
is paused again after a few events. `choreo resume` closes it by hand, and then one failure opens it again. A pause by
hand takes the place of the breaker's: it probes no more. Nor does the breaker open while a pause by hand slows the
handler down: what fails then is tried again after ``cap`` seconds, as the same attempt.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

from choreo.declare.breaker import Breaker
from choreo.declare.subscription import Subscription
from choreo.delivery import alert
from choreo.delivery.cause import Cause, cause_of
from choreo.delivery.ports import Ports
from choreo.durations import moment_of
from choreo.errors import StoreError
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.store.failures import Row
from choreo.store.pauses import BREAKER, Pause
from choreo.store.port import Store
from choreo.store.runs import Result
from choreo.store.schedule import Scheduled

logger = logging.getLogger(__name__)

#: Seconds after which an event that failed while the breaker was open goes into its queue, even if nothing hastens it.
HELD = 3600.0
#: Seconds for which the right to probe holds. The prober renews it while its event runs.
LEASE = 10.0
#: Seconds until the next probe if the queue was empty. Meanwhile an event that has failed comes into it.
NONE_WAIT = 0.5
#: Seconds before a row of failures in which a success ends it. Else the retries of some poison, which come together,
#: would open the breaker between two successes.
QUIET = 1.0
#: The most characters of a kind that are told apart, and of an error in a pause.
MOST_KIND = 300
#: How often a change of the pause is tried again, if the prober renews its right at the same time.
_TRIES = 5

#: Results of a run whose function succeeded.
_SUCCESSES = (Result.DONE, Result.FIRED, Result.TIMED_OUT)

#: The handlers that have failed in this process since their last success in it, if successes are not recorded.
_failing_here: set[str] = set()


class OutageBreaker:
    """The breaker of one handler. Its methods raise `StoreError`."""

    def __init__(self, ports: Ports, subscription: Subscription, event: Envelope | None = None) -> None:
        """``event`` is the one that is handled. Raises `ValueError` for a handler without a breaker."""
        if subscription.retry.breaker is None:
            raise ValueError(f"{subscription.name} has no breaker")
        self._ports, self._store, self._retry = ports, ports.store, subscription.retry
        self._breaker: Breaker = subscription.retry.breaker
        self._handler, self._event = subscription.name, event

    # -- failing -------------------------------------------------------------------------------------------------------

    def hold(self, error: BaseException, attempt: int, probe: str = "") -> float | None:
        """
        Count a failure of this attempt, and pause the handler if it is one too many.

        Returns None if the breaker is closed. Else the attempt does not count, and this is the longest time in seconds
        after which it is made again. ``probe`` is the token of the probe that has failed, if it was one.
        """
        if not self._retry.is_failure(error):
            return None
        try:
            return self._held(error, attempt, probe)
        except StoreError as refusal:
            if refusal.is_outage:
                raise
            # The failure itself is recorded all the same: with an attempt less, as without a breaker.
            logger.warning("the breaker of %s does not work: %s", self._handler, refusal)
            return None

    def _held(self, error: BaseException, attempt: int, probe: str) -> float | None:
        cause = cause_of(error)
        kind = cause.kind[:MOST_KIND]
        _failing_here.add(self._handler)
        row = self._store.count_failure(self._handler, kind)
        if row.total < self._retry.opens_at and not probe:
            return None
        pause = self._store.pause_of(self._handler)
        if is_open(pause):
            self._put_off(probe, cause, row)
            return HELD
        if not self._is_enough(row, attempt):
            return None
        if self._has_succeeded(row.since):
            self._store.count_failure(self._handler, kind, anew=True)
            return None
        if pause is not None:
            return self._breaker.cap  # a person has paused the handler, or slowed it down
        self._open(cause, row)
        return HELD

    def keep(self, schedule_id: str, *, is_scheduled: bool) -> None:
        """
        Let an entry of the schedule fall due when the pause ends. Called before it is scheduled, and after.

        Before, in case that this process ends in between; after, in case that the pause does.
        """
        _keep(self._store, self._handler, schedule_id, is_scheduled=is_scheduled)

    def _is_enough(self, row: Row, attempt: int) -> bool:
        is_last = attempt >= self._retry.attempts
        return max(row.of_kind, row.total if is_last else 0) >= self._retry.opens_at

    def _has_succeeded(self, since: float) -> bool:
        """True if a success was recorded since `QUIET` seconds before the row began."""
        if not self._store.recording:
            return False
        begin = since - QUIET
        runs = self._store.recent(self._handler, max(self._store.now() - begin, 0.0))
        return any(run.result in _SUCCESSES and run.at >= begin for run in runs)

    def _open(self, cause: Cause, row: Row) -> None:
        wait = self._breaker.wait(0)
        pause = Pause(
            self._handler,
            id=uuid4().hex,
            by=BREAKER,
            error=_text_of(cause),
            failures=row.total,
            probe_at=self._after(wait),
        )
        alerts = alert.paused(self._ports, self._handler, pause.id, reason=pause.error, by=BREAKER, event=self._event)
        if self._store.pause(pause, instead_of=None, scheduled=alerts).is_done:
            text = "%s is paused by its breaker after %d failures in a row: %s. It tries one event in %g s"
            logger.warning(text, self._handler, row.total, pause.error, wait)

    # -- probing -------------------------------------------------------------------------------------------------------

    def begin_probe(self, pause: Pause) -> str:
        """
        Take the right to let one event through. Returns the token of the probe; "" if it is not time, or another does.

        ``pause`` is the one in force, as the caller knows it.
        """
        if not is_open(pause) or pause.probe_at is None or pause.probe_at.timestamp() > self._store.now():
            return ""
        prober = self._ports.node or self._ports.service_name  # a stage is no node
        probing = replace(pause, probes=pause.probes + 1, probe_at=self._after(LEASE), prober=prober)
        done = self._store.pause(probing, instead_of=pause)
        return _token_of(probing) if done.is_done else ""

    def renew(self, probe: str) -> bool:
        """Keep the right to probe for another `LEASE`. False if this probe has ended, or is another's by now."""
        return self._change(probe, probe_at=self._after(LEASE)) is not None

    def found_none(self, probe: str) -> None:
        """End a probe because the queue is empty: the event that has waited longest goes into it for the next one."""
        self._store.hasten_held(self._handler, 1)
        self._release(probe, NONE_WAIT)

    def release(self, probe: str) -> None:
        """End a probe that has shown nothing: its event needed no run, or there was none. The next one may follow."""
        self._release(probe)

    def _release(self, probe: str, wait: float = 0.0) -> None:
        pause = self._probing(probe)
        if pause is not None:
            self._change(probe, probes=pause.probes - 1, probe_at=self._after(wait), prober="")

    def close(self, probe: str) -> None:
        """End the pause: a probe has succeeded. Nothing if the pause is another one by now."""
        for _ in range(_TRIES):
            pause = self._probing(probe)
            if pause is None:
                return
            alerts = alert.resumed(self._ports, self._handler, pause.id, by=BREAKER, event=self._event)
            if self._store.resume(self._handler, instead_of=pause, scheduled=alerts):
                self._store.forget_failures(self._handler)
                self._store.hasten_held(self._handler)
                _failing_here.discard(self._handler)
                since = self._store.now() - pause.since.timestamp()
                text = "%s goes on: an event has succeeded after %d probes in %.0f s"
                logger.warning(text, self._handler, pause.probes, since)
                return

    def _put_off(self, probe: str, cause: Cause, row: Row) -> None:
        """Plan the next probe after this one has failed. Nothing if this is no probe, or its pause has changed."""
        pause = self._probing(probe)
        if pause is None:
            return
        wait = self._breaker.wait(pause.probes)
        logger.info("%s stays paused by its breaker: %s. It tries one event in %g s", self._handler, cause, wait)
        at = self._after(wait)
        self._change(probe, probe_at=at, prober="", error=_text_of(cause), failures=row.total)

    def _change(self, probe: str, **changes: object) -> Pause | None:
        for _ in range(_TRIES):
            pause = self._probing(probe)
            if pause is None:
                return None
            changed: Pause = replace(pause, **changes)  # type: ignore[arg-type]
            done = self._store.pause(changed, instead_of=pause)
            if done.is_done:
                return done.pause
        return None

    def _probing(self, probe: str) -> Pause | None:
        """The pause in force, if this probe is under way."""
        pause = self._store.pause_of(self._handler) if probe else None
        return pause if pause is not None and is_open(pause) and pause.prober and _token_of(pause) == probe else None

    def _after(self, seconds: float) -> datetime:
        return moment_of(self._store.now()) + timedelta(seconds=seconds)


def hold_back(store: Store, handler: str, retries: Sequence[tuple[str, Message]]) -> list[tuple[str, Message]]:
    """
    Let retries that are due wait in the schedule while the breaker is open. Returns those that are to be sent.

    In the queue they would stand before events that have not failed. An entry may be kept twice, if this process ends
    in between: the second one does nothing.
    """
    if not is_open(store.pause_of(handler)):
        return list(retries)
    for key, message in retries:
        again = Scheduled(f"held:{key}", message, HELD)
        store.schedule(handler, again)
        _keep(store, handler, again.id, is_scheduled=True)
    store.sent(handler, [key for key, _ in retries])
    return []


def _keep(store: Store, handler: str, schedule_id: str, *, is_scheduled: bool) -> None:
    try:
        store.note_held(handler, schedule_id)
        if is_scheduled and store.pause_of(handler) is None:
            store.hasten_held(handler)
    except StoreError as error:
        if error.is_outage:
            raise
        logger.warning("%s: an event waits up to %.0f s, even if the breaker closes: %s", handler, HELD, error)


def succeeded(ports: Ports, handler: str) -> None:
    """Called for a success that is not recorded: end the row of failures, if this process has failed before."""
    if handler in _failing_here:
        _failing_here.discard(handler)
        with suppress(Exception):  # the row only pauses the handler a little too early
            ports.store.forget_failures(handler)


def is_open(pause: Pause | None) -> bool:
    """True for the pause of an open breaker."""
    return pause is not None and pause.by == BREAKER and pause.is_stop


def _token_of(pause: Pause) -> str:
    return f"{pause.id} {pause.probes}"


def _text_of(cause: Cause) -> str:
    return str(cause)[:MOST_KIND]
