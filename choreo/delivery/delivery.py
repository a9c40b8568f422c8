"""The life of one delivery.

::

    begin ─> RUN ──> the handler ──> commit: done, with the events it announced ──> send them ──> ack
         │                    └────> commit: a retry is scheduled, or the dead letter is recorded ──> ack
         ├─> WAIT, DONE ──> ack
         ├─> BUSY ──> scheduled again, for when the other worker's lease has run out ──> ack
         └─> POISON ──> commit: the dead letter is recorded ──> ack

If the process of the last beginning was ended by a time limit, RUN is a failed attempt; if an operator ended it, RUN
and POISON are a dead letter that says so. See `choreo.delivery.ending`.

The message is acked last. If the worker dies anywhere on the way, the message is delivered again, and the answer of
`begin` depends on how far the first delivery came.
"""

import logging
import os
from collections.abc import Coroutine, Generator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from socket import gethostname
from time import monotonic
from typing import Any
from uuid import uuid4

from choreo import event_loop
from choreo.cached import cached_property
from choreo.declare.context import Context
from choreo.declare.reaction import Announcing
from choreo.declare.subscription import Subscription
from choreo.delivery import run_log
from choreo.delivery.alert import alerts_of
from choreo.delivery.breaker import OutageBreaker, succeeded
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.ending import End, Ending
from choreo.delivery.failure import (
    MOST_LOGGED,
    MOST_TEXT,
    RetryScheduledError,
    cut,
    harmless,
    is_stop,
    line_of,
    trace_of,
    veiled,
)
from choreo.delivery.loop import endless
from choreo.delivery.notice import log_dead_letter, messages_about
from choreo.delivery.ports import Decisions, Ports
from choreo.errors import (
    DeclarationError,
    EnvelopeError,
    EventTooLargeError,
    HandlerTimeoutError,
    InvalidEventError,
    JoinExpiredError,
    LoopError,
    PublishError,
    StoreError,
    VersionError,
)
from choreo.events.envelope import NEW_KEY, Envelope
from choreo.events.lineage import NO_LINEAGE, Lineage
from choreo.events.message import Message
from choreo.events.redaction import hidden, without
from choreo.printing import one_line
from choreo.store.claims import FORGOTTEN, Claim, ClaimResult, CommitResult, Outcome, Settlement, Verdict
from choreo.store.runs import Entry, Result, Run, entries, plain_entry
from choreo.store.schedule import Scheduled
from choreo.store.slots import Slot
from choreo.store.turns import Turn

_HOST = gethostname()

logger = logging.getLogger(__name__)

#: The outcome of a delivery whose unit is finished.
DONE = "done before"
TOO_LATE = "too late: another worker has taken over"
SETTLED = "settled before, it seems by its own commit, whose answer was lost"

#: Errors after which no attempt can succeed: the same data does not fit the same model, the deadline has passed, or
#: the same code announces the same thing again.
HOPELESS = (EnvelopeError, JoinExpiredError, InvalidEventError, EventTooLargeError, LoopError, DeclarationError)

#: The events that a handler is called with: by type or, for a join, by the part's name.
Parts = Mapping[str, Envelope]

#: The life of a delivery whose coroutine runs without a waiting thread: see `Delivery.steps`.
Steps = Generator[Coroutine[Any, Any, list[Envelope]], list[Envelope], str]


def tokens_of(pid: int) -> str:
    """The beginning of the token of each claim that a process of this host makes."""
    return f"{_HOST}-{pid}-"


class Delivery:
    """One copy of one event, delivered to one handler in one worker. It lives for one attempt."""

    def __init__(
        self,
        ports: Ports,
        subscription: Any,
        envelope: Envelope,
        attempt: int = 1,
        *,
        redelivered: bool = False,
        token: str | None = None,
        decisions: Decisions | None = None,
        lineage: Lineage = NO_LINEAGE,
    ) -> None:
        """
        ``attempt`` counts from 1. ``redelivered``: this copy was delivered before. ``token`` is the claim's, and unique
        to this delivery; None makes one. ``decisions`` begins and commits in place of the store. ``lineage`` is that of
        the run, for its retries.
        Raises `EnvelopeError` if the handler cannot take such an event.
        """
        self.ports = ports
        self.decisions: Decisions = ports.store if decisions is None else decisions
        self.subscription: Subscription = subscription
        self.envelope = envelope
        self.attempt = attempt
        self.redelivered = redelivered
        self.lineage = lineage
        #: When the handler began: by the clock of the ports, and by a monotonic one. None before.
        self._began: tuple[datetime, float] | None = None
        #: True once the outcome is recorded. From then on the copy can be acked, whatever else fails.
        self.settled = False
        #: True once the log tells of a failure for good.
        self.is_told = False
        #: The run that has ended, if the store or the log takes it.
        self._ended: Run | None = None
        # The process is for people: see `choreo.delivery.ending`.
        self.token = tokens_of(os.getpid()) + uuid4().hex if token is None else token
        self.claim = self.make_claim()

    def __str__(self) -> str:
        return f"{self.subscription.name}({self.envelope})"

    def live(self) -> str:
        """
        Handle this copy. Returns the outcome in words for people.

        Raises `RetryScheduledError` if the attempt failed and a retry is scheduled, and the handler's error if the
        event became a dead letter. With any other error (`StoreError`, above all) nothing is recorded, unless `settled`
        is true, and the message must be delivered again.
        """
        parts = self.start()
        return parts if isinstance(parts, str) else self._run(parts)

    def start(self) -> Parts | str:
        """
        Begin. Returns the events that the handler is to be called with, or the outcome in words if it is not called.

        Raises as `live` does.
        """
        return self.started(self.begin())

    def started(self, result: ClaimResult) -> Parts | str:
        """As `start`, with the answer of `begin`."""
        match result.verdict:
            case Verdict.RUN:
                return self.parts_of(result) if result.deliveries < 2 else self._start_again(result)
            case Verdict.WAIT:
                return self._without_run(f"waiting, {result.deliveries} of its events are here", "waiting")
            case Verdict.DONE:
                return self._without_run(DONE, DONE)
            case Verdict.BUSY:
                return self.postpone(result.busy_seconds)
            case Verdict.POISON:
                return self._poison(result)

    def steps(self) -> "Steps":
        """
        The same life, for a handler whose coroutine runs without a thread that waits for it.

        The generator yields the coroutine that `react` returned, if it returned one. It is sent what the coroutine
        returns, or thrown what it raises, by any thread. Else it returns and raises as `live` does.
        """
        parts = self.start()
        if isinstance(parts, str):
            return parts
        self._began = self.ports.now(), monotonic()
        try:
            with self.ports.leases.kept(self.claim, self.holds):
                context = self.context(parts)
                announced = self.react(parts, context)
                if not isinstance(announced, list):
                    announced = yield announced
        except GeneratorExit:
            raise  # the process ends
        except BaseException as error:
            return self._raised(parts, error)
        return self._returned(parts, announced, context)

    #: The log level of a success.
    success_level = logging.INFO
    #: So many times `Ports.max_hops` events may lead to the announced ones.
    loop_margin = 1
    #: The token of the probe that this delivery is; "" if it is none: see `choreo.delivery.probe`.
    probe = ""
    #: What is renewed while the handler runs, beside the claim: its slot, its turn.
    holds: tuple[Slot | Turn, ...] = ()
    #: True once an attempt has failed that does not count, since the breaker is open.
    is_held = False

    @property
    def has_run(self) -> bool:
        """True once the handler was called."""
        return self._began is not None

    # -- overridden by joins ---------------------------------------------------------------------------------------

    def make_claim(self) -> Claim:
        """The claim of this delivery on its unit. Called once, when the delivery is made."""
        return self.claim_on(self.envelope.identity)

    def claim_on(self, unit: str, signal: str = "") -> Claim:
        """A claim of this delivery on a unit. ``signal`` is the signal's id, for a signal to a join: see `Claim`."""
        return Claim(self.subscription.name, unit, self.token, self.attempt, signal)

    def begin(self) -> ClaimResult:
        """Claim the unit. Raises `StoreError`."""
        return self.decisions.begin(self.claim)

    def seize(self) -> ClaimResult:
        """Claim the unit for its revocation. Raises `StoreError`."""
        return self.begin()

    def revoke(self, result: ClaimResult, why: str) -> str:
        """Make the claimed unit a dead letter. Returns the outcome in words."""
        letter = self._letter(self.parts_of(result), Reason.REVOKED, why)
        if result.deliveries < 2:
            letter = replace(letter, attempts=self.attempt - 1)  # this beginning is that of the revocation
        return self._commit_letter(letter) or f"dead letter {letter.id}: {letter.reason}"

    def parts_of(self, result: ClaimResult) -> Parts:  # noqa: ARG002 - a join finds its parts there
        """The events that the handler is called with: see `Parts`."""
        return {self.envelope.type: self.envelope}

    def react(self, parts: Parts, context: Context) -> Announcing:  # noqa: ARG002
        """
        Call the handler. Returns the events to announce; raises what the handler raises.

        For an ``async def`` handler, returns the coroutine that does so.
        """
        return self.subscription.reaction([self.envelope], context)

    def context(self, parts: Parts) -> Context:  # noqa: ARG002
        """The context that the handler is called in."""
        return self._context(self.envelope, events=(self.envelope,))

    def outdated(self) -> list[str]:
        """The ids that the commit removes from the schedule."""
        return []

    @property
    def remember(self) -> float:
        """Seconds for which the finished unit is remembered, if that is longer than `Terms.retention`."""
        return 0.0

    @property
    def handled(self) -> Sequence[Envelope]:
        """The events that the run has handled."""
        return (self.envelope,)

    def finished(self, **records: Any) -> Settlement:
        """A settlement that finishes the unit, with these fields."""
        return Settlement(unscheduled=self.outdated(), remember=self.remember, **records)

    @property
    def idempotency_key(self) -> str:
        """See `Context.idempotency_key`."""
        own = f"{self.claim.handler}/{self.claim.unit}"
        again = self.envelope.extensions and self.envelope.extensions.get(NEW_KEY)
        return f"{own}/{again}" if again else own

    def own_event(self, envelope: Envelope) -> Envelope:
        """The event as a message to this handler carries it."""
        return envelope

    def run_of(self, ended: Result, announced: Sequence[Envelope], detail: str) -> Run:
        """The run that ends now, for the record: see `Run`."""
        event = self.envelope
        waited, took = self._times()
        subjects = {one.subject for one in announced} - {event.subject, ""} if announced else ()
        return Run(
            event=event.id,
            story=event.correlation_id,
            subject=event.subject,
            type=event.type,
            attempt=self.attempt,
            result=ended,
            waited=waited,
            took=took,
            worker=self.ports.node,
            announced=[(one.type, one.id) for one in announced] if announced else (),
            detail=detail,
            subjects=sorted(subjects) if subjects else (),
            handler=self.claim.handler,
        )

    def plain_entry(self, ended: Result, announced: Sequence[Envelope]) -> Entry | None:
        """The entry of the run that ends now, if it is as plain as most: see `choreo.store.runs.plain_entry`."""
        event = self.envelope
        names: Sequence[tuple[str, str]] = ()
        if announced:
            if any(one.subject not in ("", event.subject) for one in announced):
                return None
            names = [(one.type, one.id) for one in announced]
        return plain_entry(event, self.attempt, ended, *self._times(), self.claim.handler, self.ports.node, names)

    # -- running ---------------------------------------------------------------------------------------------------

    def _start_again(self, result: ClaimResult) -> Parts | str:
        """As `start`, for a unit whose last beginning never finished; its end may have been an outcome."""
        parts, last = self.parts_of(result), self.last_end()
        if last is not None and last.end is End.TIME_LIMIT:
            return self._failed(parts, HandlerTimeoutError(last.text))
        if last is not None and last.end is End.TERMINATED:
            return self.make_dead_letter(parts, Reason.REVOKED, last.text)
        return parts

    def _poison(self, result: ClaimResult) -> str:
        parts, last = self.parts_of(result), self.last_end()
        if last is not None and last.end is End.TERMINATED:
            return self.make_dead_letter(parts, Reason.REVOKED, last.text)
        how = f"; the last time {last.text}" if last else ""
        return self.make_dead_letter(parts, Reason.POISON, f"begun {result.deliveries} times and never finished{how}")

    def last_end(self) -> Ending | None:
        """How the last beginning of this unit ended, as far as it is known. Raises `StoreError`."""
        return Ending.of(self.ports.store.last_end(self.claim.handler, self.claim.unit))

    def _run(self, parts: Parts) -> str:
        self._began = self.ports.now(), monotonic()
        try:
            with self.ports.leases.kept(self.claim, self.holds):
                context = self.context(parts)
                announced = self.react(parts, context)
                if not isinstance(announced, list):
                    announced = self._wait_for(announced)
        except BaseException as error:
            return self._raised(parts, error)
        return self._returned(parts, announced, context)

    def _wait_for(self, coroutine: Coroutine[Any, Any, list[Envelope]]) -> list[Envelope]:
        announced: list[Envelope] = event_loop.wait(coroutine, self.subscription.name)
        return announced

    def _raised(self, parts: Parts, error: BaseException) -> str:
        """Any error of a handler is a failure of that handler, not of its worker."""
        if is_stop(error):
            raise error
        if isinstance(error, event_loop.RunTerminatedError):
            return self.make_dead_letter(parts, Reason.REVOKED, str(error))
        return self._failed(parts, error)

    def _returned(self, parts: Parts, announced: list[Envelope], context: Context) -> str:
        try:
            settlement = self._success(announced, context)
        except StoreError:
            raise  # the handler has not failed: nothing is recorded
        except Exception as error:
            return self._failed(parts, error)
        return self._succeeded(announced, settlement)

    def _success(self, announced: list[Envelope], context: Context) -> Settlement:
        """
        The records of a success.

        Raises `LoopError` if too many events have led to the announced ones, and a `PublishError` for an event that
        cannot be sent: see `message_for`.
        """
        if not announced:
            return self.finished(record=self._recorded(Result.DONE))
        if announced[0].hops > self.loop_margin * self.ports.max_hops:
            raise endless(self.ports.store, self.envelope, announced, self.ports.max_hops)
        sent = {f"event:{envelope.id}": self.ports.publisher.message_for(envelope) for envelope in announced}
        later = self._delayed(sent, context) if context.delays else ()
        return self.finished(sent=sent, scheduled=later, record=self._recorded(Result.DONE, announced))

    def _delayed(self, sent: dict[str, Message], context: Context) -> list[Scheduled]:
        """Take the delayed events out of what is sent now."""
        clocks = self.ports.store.now, self.ports.now
        delays = {f"event:{key}": delay.seconds(*clocks) for key, delay in context.delays.items()}
        return [Scheduled(key, sent.pop(key), delay) for key, delay in delays.items() if key in sent]

    def _succeeded(self, announced: list[Envelope], settlement: Settlement) -> str:
        if late := self._commit(settlement):
            return late
        run = self._ended
        if run is not None and run_log.logger.isEnabledFor(self.success_level):
            attempts = self.subscription.retry.attempts
            run_log.log_success(self.success_level, str(self), run, self.ports.service_name, attempts)
        return f"announced {', '.join(map(str, announced))}" if announced else "done"

    def _failed(self, parts: Parts, error: BaseException) -> str:
        held = self._held_for(error)
        if held is not None:
            return self._hold(error, held)
        wait, raised, line = self._wait(error), self._harmless(error), self._line_of(error)
        if wait is None:
            letter = self._letter(parts, self._reason(error), line, without(trace_of(error), self._hidden))
            if late := self._commit_letter(letter, raised):
                return late
            raise raised
        retry = self.own_message(self.envelope, retries=self.attempt)
        scheduled = Scheduled(f"retry:{self.claim.token}", retry, wait)
        record = self._recorded(Result.RETRY, detail=line)
        # This attempt must be remembered until the next one has arrived.
        remember = self._remember_retry(wait)
        if late := self._commit(Settlement(done=False, scheduled=[scheduled], remember=remember, record=record)):
            return late
        attempts = f"attempt {self.attempt} of {self.subscription.retry.attempts}"
        words = f"{attempts} failed, the next is in {wait:.1f} s"
        reason = f"{words}: {line}"
        self._log_retry(f"{words}: {cut(line, MOST_LOGGED)}", raised, wait)
        raise RetryScheduledError(reason, raised, wait) from raised

    def _held_for(self, error: BaseException) -> float | None:
        """
        The most seconds after which this attempt is made again, if it does not count; None if the breaker is closed.

        Tells the breaker of the failure.
        """
        if self.subscription.retry.breaker is None or isinstance(error, HOPELESS):
            return None
        return OutageBreaker(self.ports, self.subscription, self.envelope).hold(error, self.attempt, self.probe)

    def _hold(self, error: BaseException, wait: float) -> str:
        """Settle the claim as no attempt, and schedule the same attempt again. Raises `RetryScheduledError`."""
        line, raised = self._line_of(error), self._harmless(error)
        again = Scheduled(f"held:{self.claim.token}", self.own_message(self.envelope, retries=self.attempt - 1), wait)
        record = self._recorded(Result.HELD, detail=line)
        self.claim, self.is_held = replace(self.claim, attempt=0), True
        remember = self._remember_retry(wait)
        breaker = OutageBreaker(self.ports, self.subscription, self.envelope)
        breaker.keep(again.id, is_scheduled=False)
        if late := self._commit(Settlement(done=False, scheduled=[again], remember=remember, record=record)):
            return late
        breaker.keep(again.id, is_scheduled=True)
        attempts = f"attempt {self.attempt} of {self.subscription.retry.attempts}"
        words = f"{attempts} failed and does not count, since the breaker has paused the handler"
        self._log_retry(f"{words}: {cut(line, MOST_LOGGED)}", raised, wait)
        if not self.probe:
            self.ports.stand_by(self.claim.handler)
        raise RetryScheduledError(f"{words}: {line}", raised, wait) from raised

    def make_dead_letter(self, parts: Parts, reason: Reason, error: str) -> str:
        """Record a dead letter for a claimed unit whose handler is not called. Returns the outcome in words."""
        letter = self._letter(parts, reason, error)
        return self._commit_letter(letter) or f"dead letter {letter.id}: {reason}"

    def _letter(self, parts: Parts, reason: Reason, error: str, trace: str = "") -> DeadLetter:
        return DeadLetter(
            service=self.ports.service_name,
            handler=self.subscription.name,
            reason=reason,
            error=cut(error, MOST_TEXT),
            traceback=trace,
            attempts=self.attempt,
            unit=self.claim.unit,
            envelopes=tuple(parts.values()),
            message=self.own_message(self.envelope),
            failed_at=self.ports.now(),
        )

    def _commit_letter(self, letter: DeadLetter, error: Exception | None = None, *, done: bool = True) -> str:
        """Record a dead letter, and log it. Returns "", or the reason if it was too late."""
        alerts = alerts_of(letter, self.ports)
        records: dict[str, Any] = {
            "letter": (letter.id, letter.to_json(), letter.card),
            "sent": messages_about(letter, self.ports, alerts),
            "record": self._recorded(Result.DEAD, list(alerts), f"{letter.id} {one_line(letter.error)}"),
        }
        settlement = self.finished(**records) if done else Settlement(done=False, remember=self.remember, **records)
        if late := self._commit(settlement):
            return late
        log_dead_letter(letter, error, self._fields(self._ended))
        self.is_told = True
        return ""

    def _commit(self, settlement: Settlement) -> str:
        """Settle the claim, and send the messages that leave with it. Returns "", or the reason if it was too late."""
        return self.heed(self.decisions.commit(self.claim, settlement))

    def heed(self, committed: CommitResult) -> str:
        """Take note of the answer to a commit of the claim. Returns "", or the reason if it was too late."""
        if committed.outcome is Outcome.LOST:
            raise StoreError(FORGOTTEN, is_outage=False)
        self.settled = True
        # The unit was settled by another commit. Nothing of this one is sent.
        if committed.outcome is not Outcome.OK:
            return log_too_late(str(self), self.claim, committed)
        if committed.unheard:
            self.ports.publisher.note_unheard(committed.unheard)
        if committed.unsent:
            self._send_now(committed.unsent)
        return ""

    def postpone(self, seconds: float) -> str:
        """Try again when the other worker's lease has run out. Returns the outcome in words."""
        # If the other worker dies, this copy may be the last one: it waits in the schedule.
        postponed = self.own_message(self.envelope, retries=self.attempt - 1)
        self.ports.store.schedule(self.claim.handler, Scheduled(f"busy:{self.claim.token}", postponed, seconds))
        self.settled = True
        why = "its round is not settled, or " if getattr(self.subscription, "rounds", False) else ""
        words = f"{why}another worker has its claim; it is tried again in {seconds:.1f} s"
        return self._without_run(words, "postponed", logging.INFO)

    def _send_now(self, messages: Mapping[str, Message]) -> None:
        """Send messages that are in the outbox of a commit. If that fails, the clock of a worker sends them."""
        try:
            self.ports.publisher.send(messages.values())
            self.ports.store.sent(self.claim.handler, list(messages))
        except (PublishError, StoreError) as error:
            # The commit holds. The clock of any worker of this service sends the rest.
            logger.warning("%s is done, but not everything is sent yet: %s", self, error)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def own_message(self, envelope: Envelope, retries: int = 0) -> Message:
        """A message that carries an event to this handler's queue only."""
        queue = self.ports.queue_of(self.subscription.name)
        lineage = self.lineage if envelope is self.envelope else NO_LINEAGE
        sent = self.own_event(envelope)
        return Message.carrying(sent, exchange="", routing_key=queue, retries=retries, lineage=lineage)

    def _recorded(self, ended: Result, announced: Sequence[Envelope] = (), detail: str = "") -> Sequence[Entry]:
        """The entries in the record of the run that ends now; none if it is not recorded."""
        recording = self.ports.store.recording
        if not run_log.is_told(ended):
            if not recording:
                return self._unrecorded(ended)
            if recording.is_plain and not detail and (entry := self.plain_entry(ended, announced)):
                return (entry,)
        self._ended = run = self.run_of(ended, announced, detail)
        if not recording or not recording.wants(run.story):
            return self._unrecorded(ended)
        if recording.events and ended not in (Result.RETRY, Result.HELD):  # their events are in the schedule
            run.whole = self.handled
        return entries(run)

    def _times(self) -> tuple[float, float]:
        """How long the event waited for its handler, and how long the handler took so far, in seconds."""
        began, since = self._began or (self.ports.now(), monotonic())
        return max((began - self.envelope.time).total_seconds(), 0.0), monotonic() - since

    def _unrecorded(self, ended: Result) -> Sequence[Entry]:
        """Tell the breaker of a success that it cannot find in the record. Returns no entries."""
        if ended is Result.DONE:
            succeeded(self.ports, self.claim.handler)
        return ()

    # -- the log ---------------------------------------------------------------------------------------------------

    def _fields(self, run: Run | None) -> dict[str, Any]:
        return {} if run is None else run_log.fields_of(run, self.ports.service_name, self.subscription.retry.attempts)

    def _log_retry(self, reason: str, error: BaseException, wait: float) -> None:
        run = self._ended
        if run is not None and run_log.logger.isEnabledFor(logging.WARNING):
            due = (self.ports.now() + timedelta(seconds=wait)).isoformat()
            fields = self._fields(run) | {"due": due, "error": run.detail}
            run_log.log_retry(str(self), reason, run, fields, error)

    def _without_run(self, words: str, outcome: str, level: int = logging.DEBUG) -> str:
        """Log a delivery that calls no handler. Returns its outcome in words."""
        if run_log.logger.isEnabledFor(level):
            run = self.run_of(Result.DONE, (), "")
            fields = {**self._fields(run), "outcome": outcome}
            run_log.log_no_run(level, str(self), words, run, fields)
        return words

    def _context(
        self, cause: Envelope, about: str | None = None, key: str | None = None, events: tuple[Envelope, ...] = ()
    ) -> Context:
        return self.ports.contexts(
            service=self.ports.service_name,
            handler=self.subscription.name,
            envelope=cause,
            about=about,
            attempt=self.attempt,
            attempts=self.subscription.retry.attempts,
            idempotency_key=self.idempotency_key if key is None else key,
            events=events,
            now=self.ports.now,
            clock=self.ports.store.now,
        )

    def _wait(self, error: BaseException) -> float | None:
        return None if isinstance(error, HOPELESS) else self.subscription.retry.wait(self.attempt, error)

    def _harmless(self, error: BaseException) -> Exception:
        """The error as it is raised and logged: see `failure.harmless`. Without redacted values."""
        return harmless(veiled(error, self._hidden))

    @cached_property
    def _hidden(self) -> Sequence[str]:
        """The redacted values of the events in hand, which no text about a failure may show."""
        return hidden((self.envelope, *self.handled))

    def _line_of(self, error: BaseException) -> str:
        """The error in one line, without redacted values."""
        return without(self._told(error), self._hidden)

    def _told(self, error: BaseException) -> str:
        """The error in one line. Celery's error for a soft time limit says neither which limit nor how long it is."""
        if not any(cls.__name__ == "SoftTimeLimitExceeded" for cls in type(error).__mro__) or any(map(str, error.args)):
            return line_of(error)
        limit = self.ports.soft_time_limit(self.subscription.name)
        what = f"the soft time limit of {limit:g} s was exceeded" if limit else "signal SIGUSR1 interrupted the handler"
        return f"{type(error).__name__}: {what}"

    def _remember_retry(self, wait: float) -> float:
        return max(self.remember, wait + self.ports.terms.retention.total_seconds())

    def _reason(self, error: BaseException) -> Reason:
        if isinstance(error, JoinExpiredError):
            return Reason.EXPIRED
        if isinstance(error, LoopError):
            return Reason.LOOP
        if isinstance(error, EnvelopeError):
            return Reason.VERSION if isinstance(error, VersionError) else Reason.UNREADABLE
        is_retried = self.subscription.retry.covers(error) and not isinstance(error, HOPELESS)
        return Reason.EXHAUSTED if is_retried else Reason.REFUSED


def log_too_late(delivery: str, claim: Claim, committed: CommitResult) -> str:
    """Log that a commit was refused, since the unit is settled or another worker has claimed it. Returns the reason."""
    late = SETTLED if committed.repeated else TOO_LATE
    # The handler's effects elsewhere may have happened twice, so a worker at the default log level logs this.
    logger.log(
        logging.INFO if committed.repeated else logging.WARNING, "%s, %s: %s", delivery, one_line(claim.unit), late
    )
    return late
