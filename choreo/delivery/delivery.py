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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from socket import gethostname
from time import monotonic
from typing import Any
from uuid import uuid4

from choreo.declare.context import Context
from choreo.declare.subscription import Subscription
from choreo.delivery import run_log
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
)
from choreo.delivery.notice import log_dead_letter, notice
from choreo.delivery.ports import Decisions, Ports
from choreo.errors import (
    DeclarationError,
    EnvelopeError,
    EventTooLargeError,
    HandlerTimeoutError,
    InvalidEventError,
    JoinExpiredError,
    PublishError,
    StoreError,
)
from choreo.events.envelope import Envelope
from choreo.events.lineage import NO_LINEAGE, Lineage
from choreo.events.message import Message
from choreo.printing import one_line
from choreo.store.claims import FORGOTTEN, Claim, ClaimResult, CommitResult, Outcome, Settlement, Verdict
from choreo.store.runs import Result, Run
from choreo.store.schedule import Scheduled

_HOST = gethostname()

logger = logging.getLogger(__name__)

#: The outcome of a delivery whose unit is finished.
DONE = "done before"
TOO_LATE = "too late: another worker has taken over"
SETTLED = "settled before, it seems by its own commit, whose answer was lost"

#: Errors after which no attempt can succeed: the same data does not fit the same model, the deadline has passed, or
#: the same code announces the same thing again.
HOPELESS = (EnvelopeError, JoinExpiredError, InvalidEventError, EventTooLargeError, DeclarationError)

#: The events that a handler is called with: by type or, for a join, by the part's name.
Parts = Mapping[str, Envelope]


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
        result = self.begin()
        match result.verdict:
            case Verdict.RUN:
                return self._run(self.parts_of(result)) if result.deliveries < 2 else self._run_again(result)
            case Verdict.WAIT:
                return self._without_run(f"waiting, {result.deliveries} of its events are here", "waiting")
            case Verdict.DONE:
                return self._without_run(DONE, DONE)
            case Verdict.BUSY:
                return self.postpone(result.busy_seconds)
            case Verdict.POISON:
                return self._poison(result)

    #: The log level of a success.
    success_level = logging.INFO

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

    def react(self, parts: Parts, context: Context) -> list[Envelope]:  # noqa: ARG002
        """Call the handler. Returns the events to announce; raises what the handler raises."""
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

    def finished(self, **records: Any) -> Settlement:
        """A settlement that finishes the unit, with these fields."""
        return Settlement(unscheduled=self.outdated(), remember=self.remember, **records)

    @property
    def idempotency_key(self) -> str:
        """See `Context.idempotency_key`."""
        return f"{self.claim.handler}/{self.claim.unit}"

    def own_event(self, envelope: Envelope) -> Envelope:
        """The event as a message to this handler carries it."""
        return envelope

    def run_of(self, result: Result, announced: Sequence[Envelope], detail: str) -> Run:
        """The run that ends now, for the record: see `Run`."""
        event = self.envelope
        began, since = self._began or (self.ports.now(), monotonic())
        subjects = {one.subject for one in announced} - {event.subject, ""} if announced else ()
        return Run(
            event=event.id,
            story=event.correlation_id,
            subject=event.subject,
            type=event.type,
            attempt=self.attempt,
            result=result,
            waited=max((began - event.time).total_seconds(), 0.0),
            took=monotonic() - since,
            worker=self.ports.node,
            announced=[(one.type, one.id) for one in announced] if announced else (),
            detail=detail,
            subjects=sorted(subjects) if subjects else (),
            handler=self.claim.handler,
        )

    # -- running ---------------------------------------------------------------------------------------------------

    def _run_again(self, result: ClaimResult) -> str:
        """Run a unit whose last beginning never finished, unless its end was an outcome."""
        parts, last = self.parts_of(result), self.last_end()
        if last is not None and last.end is End.TIME_LIMIT:
            return self._failed(parts, HandlerTimeoutError(last.text))
        if last is not None and last.end is End.TERMINATED:
            return self.make_dead_letter(parts, Reason.REVOKED, last.text)
        return self._run(parts)

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
            with self.ports.leases.kept(self.claim):
                context = self.context(parts)
                announced = self.react(parts, context)
        except BaseException as error:  # any error of a handler is a failure of that handler, not of its worker
            if is_stop(error):
                raise
            return self._failed(parts, error)
        try:
            settlement = self._success(announced, context)
        except StoreError:
            raise  # the handler has not failed: nothing is recorded
        except Exception as error:
            return self._failed(parts, error)
        return self._succeeded(announced, settlement)

    def _success(self, announced: list[Envelope], context: Context) -> Settlement:
        """The records of a success. Raises a `PublishError` for an event that cannot be sent: see `message_for`."""
        sent = {f"event:{envelope.id}": self.ports.publisher.message_for(envelope) for envelope in announced}
        clocks = self.ports.store.now, self.ports.now
        delays = {f"event:{key}": delay.seconds(*clocks) for key, delay in context.delays.items()}
        later = [Scheduled(key, sent.pop(key), delay) for key, delay in delays.items() if key in sent]
        return self.finished(sent=sent, scheduled=later, run=self._recorded(Result.DONE, announced))

    def _succeeded(self, announced: list[Envelope], settlement: Settlement) -> str:
        if late := self._commit(settlement):
            return late
        run = self._ended
        if run is not None and run_log.logger.isEnabledFor(self.success_level):
            attempts = self.subscription.retry.attempts
            run_log.log_success(self.success_level, str(self), run, self.ports.service_name, attempts)
        return f"announced {', '.join(map(str, announced))}" if announced else "done"

    def _failed(self, parts: Parts, error: BaseException) -> str:
        wait, raised = self._wait(error), harmless(error)
        if wait is None:
            letter = self._letter(parts, self._reason(error), self._line_of(error), trace_of(error))
            if late := self._commit_letter(letter, raised):
                return late
            raise raised
        retry = self.own_message(self.envelope, retries=self.attempt)
        scheduled = Scheduled(f"retry:{self.claim.token}", retry, wait)
        run = self._recorded(Result.RETRY, detail=self._line_of(error))
        # This attempt must be remembered until the next one has arrived.
        remember = self._remember_retry(wait)
        if late := self._commit(Settlement(done=False, scheduled=[scheduled], remember=remember, run=run)):
            return late
        attempts = f"attempt {self.attempt} of {self.subscription.retry.attempts}"
        words, line = f"{attempts} failed, the next is in {wait:.1f} s", self._line_of(error)
        reason = f"{words}: {line}"
        self._log_retry(f"{words}: {cut(line, MOST_LOGGED)}", error, wait)
        raise RetryScheduledError(reason, raised, wait) from raised

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
        records: dict[str, Any] = {
            "letter": (letter.id, letter.to_json()),
            "sent": {f"notice:{letter.id}": notice(letter, self.ports)},
            "run": self._recorded(Result.DEAD, detail=f"{letter.id} {one_line(letter.error)}"),
        }
        settlement = self.finished(**records) if done else Settlement(done=False, remember=self.remember, **records)
        if late := self._commit(settlement):
            return late
        log_dead_letter(letter, error, self._fields(self._ended))
        self.is_told = True
        return ""

    def _commit(self, settlement: Settlement) -> str:
        """Settle the claim, and send the messages that leave with it. Returns "", or the reason if it was too late."""
        committed = self.decisions.commit(self.claim, settlement)
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

    def _recorded(self, result: Result, announced: Sequence[Envelope] = (), detail: str = "") -> Run | None:
        """The run that ends now; None if it is not recorded."""
        recording = self.ports.store.recording
        if not (recording or run_log.is_told(result)):
            return None
        self._ended = run = self.run_of(result, announced, detail)
        return run if recording and recording.wants(run.story) else None

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

    def _line_of(self, error: BaseException) -> str:
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
        if isinstance(error, EnvelopeError):
            return Reason.UNREADABLE
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
