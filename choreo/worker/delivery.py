"""The life of one delivery.

::

    begin ─> RUN ──> the handler ──> commit: done, with what it announced ──> send it ──> ack
         │                    └────> commit: a retry is scheduled, or the dead letter is recorded ──> ack
         ├─> WAIT, DONE ──> ack
         ├─> BUSY ──> come back when the other worker's lease has run out ──> ack
         └─> POISON ──> commit: the dead letter is recorded ──> ack

Celery acknowledges last (``acks_late``), so whatever dies on the way is delivered again, and `begin` sorts it out.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery.exceptions import Retry as Retried

from choreo.broker.keys import Lease
from choreo.broker.workload import is_stopping
from choreo.context import Context
from choreo.dead_letter import DeadLetter, Reason
from choreo.envelope import Envelope
from choreo.errors import EnvelopeError, JoinExpiredError, PublishError, StoreError
from choreo.message import Message
from choreo.store import FORGOTTEN, Begun, Claim, Committed, Outcome, Scheduled, Settlement, Verdict
from choreo.subscription import Subscription
from choreo.worker.failure import harmless, is_stop, line_of, trace_of

if TYPE_CHECKING:
    from choreo.service import Service

logger = logging.getLogger(__name__)

TOO_LATE = "too late: another worker has taken over"
SETTLED = "settled before: it seems by its own commit, whose answer was lost"

Parts = Mapping[str, Envelope]


class Delivery:
    """One copy of one event in the hands of one worker."""

    def __init__(
        self,
        app: "Service",
        subscription: Any,
        envelope: Envelope,
        attempt: int,
        lease: Lease | None = None,
        line: Any = None,
    ) -> None:
        self.app = app
        self.store = app.store
        self.subscription: Subscription = subscription
        self.envelope = envelope
        self.attempt = attempt
        self.lease = lease
        #: Where its commit can be sent ahead, if the handler has succeeded.
        self.line = None if is_stopping() else line
        #: Whether what became of it is recorded: whatever happens now, it need not come again.
        self.settled = False
        self.claim = self.make_claim()

    def __str__(self) -> str:
        return f"{self.subscription.name}({self.envelope})"

    def live(self) -> str:
        """Do what is to be done with this copy. Returns what that was; raises what Celery shall report."""
        begun = self.begin()
        match begun.verdict:
            case Verdict.RUN:
                return self._run(self.parts_of(begun))
            case Verdict.WAIT:
                return f"waiting, {begun.deliveries} of its events are here"
            case Verdict.DONE:
                return "done before"
            case Verdict.BUSY:
                return self._postpone(begun.busy_seconds)
            case Verdict.POISON:
                return self._bury(self.parts_of(begun), Reason.POISON, f"begun {begun.deliveries} times without an end")

    # -- what a join does differently ------------------------------------------------------------------------------

    def make_claim(self) -> Claim:
        return self.claim_on(self.envelope.id)

    def claim_on(self, unit: str, signal: str = "") -> Claim:
        name, lease = self.subscription.name, self.lease
        if lease is None:
            return Claim(name, unit, uuid4().hex, self.attempt, signal=signal)
        # On choreo's Redis transport each delivery has a name that no other ever has: that is the token.
        return Claim(name, unit, lease.tag, self.attempt, lease.receipt, signal, self.line)

    def begin(self) -> Begun:
        if self.lease is not None and self.lease.holds(self.claim.unit, self.claim.attempt) and not is_stopping():
            return Begun(Verdict.RUN, deliveries=1)
        return self.store.begin(self.claim)

    def parts_of(self, begun: Begun) -> Parts:  # noqa: ARG002 - a join finds its parts there
        """The events that the handler is called with, by type."""
        return {self.envelope.type: self.envelope}

    def react(self, parts: Parts, context: Context) -> list[Envelope]:  # noqa: ARG002
        """Call the handler. Returns what it announces."""
        return self.subscription.reaction([self.envelope], context)

    def context(self, parts: Parts) -> Context:  # noqa: ARG002
        """What the handler may know."""
        return self._context(self.envelope)

    def outdated(self) -> list[str]:
        """What no longer needs to be in the schedule once this is settled."""
        return []

    @property
    def remember(self) -> float:
        """For how many seconds it is remembered at least that this is done."""
        return 0.0

    @property
    def idempotency_key(self) -> str:
        return f"{self.claim.handler}/{self.claim.unit}"

    # -- running ---------------------------------------------------------------------------------------------------

    def _run(self, parts: Parts) -> str:
        if self.line is not None:
            self.line.begin(alone=self.lease is None or self.lease.redelivered)
        try:
            with self.app.leases.kept(self.claim):
                context = self.context(parts)
                announced = self.react(parts, context)
            settlement = self._success(announced, context)
        except BaseException as error:  # whatever a handler raises is a failure of that handler, not of its worker
            if is_stop(error):
                raise
            return self._failed(parts, error)
        return self._succeeded(announced, settlement)

    def _success(self, announced: list[Envelope], context: Context) -> Settlement:
        """What is recorded when the handler has succeeded. It may raise what speaks against what was announced."""
        sent = {f"event:{envelope.id}": self.app.publisher.broadcast(envelope) for envelope in announced}
        delays = {f"event:{key}": delay.seconds(self.store.now) for key, delay in context.delays.items()}
        later = [Scheduled(key, sent.pop(key), delay) for key, delay in delays.items() if key in sent]
        return Settlement(
            sent=sent,
            scheduled=later,
            unscheduled=self.outdated(),
            remember=self.remember,
            hear=self._hear,
        )

    def _succeeded(self, announced: list[Envelope], settlement: Settlement) -> str:
        if late := self._commit(settlement):
            return late
        return f"announced {', '.join(map(str, announced))}" if announced else "done"

    def _failed(self, parts: Parts, error: BaseException) -> str:
        wait = self._wait(error)
        if wait is None:
            self._bury(parts, self._reason(error), line_of(error), trace_of(error))
            raise harmless(error)
        retry = self.own_message(self.envelope, retries=self.attempt)
        scheduled = Scheduled(f"retry:{self.claim.token}", retry, wait)
        # For as long as its next attempt is away, this one must not be forgotten.
        if late := self._commit(Settlement(done=False, scheduled=[scheduled], remember=self._remember_retry(wait))):
            return late
        attempts = f"attempt {self.attempt} of {self.subscription.retry.attempts}"
        reason = f"{attempts} failed, the next is in {wait:.1f} s: {line_of(error)}"
        raise Retried(reason, harmless(error), wait) from error

    def _bury(self, parts: Parts, reason: Reason, error: str, trace: str = "") -> str:
        letter = DeadLetter(
            service=self.app.service_name,
            handler=self.subscription.name,
            reason=reason,
            error=error,
            traceback=trace,
            attempts=self.attempt,
            unit=self.claim.unit,
            envelopes=tuple(parts.values()),
            message=self.own_message(self.envelope),
        )
        self._commit(
            Settlement(
                letter=(letter.id, letter.to_json()),
                sent={f"notice:{letter.id}": self.app.notice(letter)},
                unscheduled=self.outdated(),
                remember=self.remember,
            )
        )
        return f"dead letter {letter.id}: {reason}"

    def _commit(self, settlement: Settlement) -> str:
        """Settle the claim and send what leaves with it. Answers "", or why it was too late for that."""
        committed = self.store.commit(self.claim, settlement)
        if committed.outcome is Outcome.LOST:
            raise StoreError(FORGOTTEN)
        self.settled = True
        if committed.outcome is Outcome.SENT:
            return ""
        # What the other worker committed may differ from what this one has in its hands: nothing of this leaves.
        if committed.outcome is not Outcome.OK:
            return self._too_late(committed)
        self.app.publisher.note_unheard(committed.unheard)
        if committed.unsent:
            self._send_now(committed.unsent)
        return ""

    def _hear(self, committed: Committed | StoreError) -> None:
        """Hear what became of a commit that was sent ahead."""
        if isinstance(committed, StoreError):
            logger.error("%s: %s; it goes back to its queue", self, committed)
        elif committed.outcome is Outcome.OK:
            self.app.publisher.note_unheard(committed.unheard)
        else:
            self._too_late(committed)

    def _too_late(self, committed: Committed) -> str:
        """Say in the log that this was settled before. Returns the same for people who look at the run."""
        late = SETTLED if committed.again else TOO_LATE
        # What a handler did elsewhere may have been done twice: that is worth a line in every log.
        logger.log(logging.INFO if committed.again else logging.WARNING, "%s, %s: %s", self, self.claim.unit, late)
        return late

    def _postpone(self, seconds: float) -> str:
        # This copy may be the last one there is, if the other worker dies: it waits, it is not thrown away.
        again = self.own_message(self.envelope, retries=self.attempt - 1)
        self.store.schedule(self.claim.handler, Scheduled(f"busy:{self.claim.token}", again, seconds))
        self.settled = True
        return f"another worker is at it; looking again in {seconds:.1f} s"

    def _send_now(self, messages: Mapping[str, Message]) -> None:
        try:
            self.app.publisher.send(messages.values())
            self.store.sent(self.claim.handler, list(messages))
        except (PublishError, StoreError) as error:
            # Committed is committed: the clock of any worker of this service sends what is left.
            logger.warning("%s is done, but not everything is sent yet: %s", self, error)

    # -- small things ----------------------------------------------------------------------------------------------

    def own_message(self, envelope: Envelope, retries: int = 0) -> Message:
        """A message to this handler's queue, and to nobody else."""
        queue = self.app.topology.name_of(self.subscription.name)
        return Message.carrying(envelope, exchange="", routing_key=queue, retries=retries)

    def _context(self, cause: Envelope, about: str | None = None, key: str | None = None) -> Context:
        return Context(
            service=self.app.service_name,
            handler=self.subscription.name,
            envelope=cause,
            about=about,
            attempt=self.attempt,
            attempts=self.subscription.retry.attempts,
            idempotency_key=self.idempotency_key if key is None else key,
        )

    def _wait(self, error: BaseException) -> float | None:
        # The same data will not fit the same model next time either, and time does not come back.
        if isinstance(error, (EnvelopeError, JoinExpiredError)):
            return None
        return self.subscription.retry.wait(self.attempt, error)

    def _remember_retry(self, wait: float) -> float:
        return max(self.remember, wait + self.app.terms.retention.total_seconds())

    def _reason(self, error: BaseException) -> Reason:
        if isinstance(error, JoinExpiredError):
            return Reason.EXPIRED
        if isinstance(error, EnvelopeError):
            return Reason.UNREADABLE
        return Reason.EXHAUSTED if self.subscription.retry.covers(error) else Reason.REFUSED
