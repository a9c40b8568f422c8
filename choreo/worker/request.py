"""Celery's request for one run of a service's own task: it drops no message, and records how a process ended."""

import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
from billiard.pool import MaybeEncodingError
from celery.exceptions import Ignore, Reject, Retry
from celery.platforms import signals
from celery.signals import task_revoked
from celery.utils.functional import maybe_list
from celery.worker import state
from celery.worker.request import Request

from choreo import event_loop
from choreo.broker.incoming import UNCOUNTED
from choreo.broker.redis.receipt import Receipt
from choreo.delivery.delivery import tokens_of
from choreo.delivery.ending import End, Ending, signal_in_words
from choreo.delivery.sentry import about_handler, unreported
from choreo.errors import EnvelopeError
from choreo.events.ids import named_id
from choreo.worker.unrunnable import keep

logger = logging.getLogger(__name__)

#: The field of a request whose run is no ordinary one: `REVOKED` and the reason, or `PROBE` and its token.
SPECIAL = "choreo_special"
REVOKED, PROBE = "revoked", "probe"

#: Errors of the pool after which Celery returns the message to its queue, as it must, or knows the outcome of the run.
_KNOWN = (WorkerLostError, Terminated, TimeLimitExceeded, MemoryError, Ignore, Reject, Retry)

#: Errors of the pool outside of the task, after which the outcome of the run is not known: a time limit, and an answer
#: of the child that it could not write. The message comes again, and the inbox knows if the run was recorded.
_UNKNOWN = (SoftTimeLimitExceeded, MaybeEncodingError)


class SafeRequest(Request):
    """
    Celery's request, with these differences:

    - Celery acks a revoked or expired run, whose event would be lost. Here it runs under another task id, with the
      reason in its field `SPECIAL`: the task makes a dead letter of it.
    - Celery acks a run that was terminated. Here the message returns to its queue, and the next worker makes a dead
      letter of it.
    - Celery acks a message that the child of a pool cannot read, like that of any task that failed. The task itself has
      recorded nothing then. So the delivery becomes a dead letter; without a store it returns to its queue.
    - When the process of a run ends, because of a time limit or in any other way, that is recorded in the store.

    All of it is done in the worker's main process, and only in these rare cases.
    """

    id: str
    #: False if it ran in a batch with others.
    is_alone = True
    #: The same object for all that are in one batch, which is one run; None for a run of its own.
    batch: object = None
    #: The signal with which this run was terminated.
    _sent: int = 0

    # -- revoked before the run ----------------------------------------------------------------------------------------

    def revoked(self) -> bool:
        """False: no run is discarded. A revoked one is marked."""
        if not self._is_marked and (why := self._revocation()):
            self.mark(why)
        return False

    @property
    def _is_marked(self) -> bool:
        return (self._request_dict.get(SPECIAL) or ("", ""))[0] == REVOKED

    def _revocation(self) -> str:
        """Why this run is revoked; "" if it is not."""
        if self.id in state.revoked:
            return f"task {self.id} was revoked with `celery control`"
        expires = self.expires
        if expires is not None and datetime.now(UTC if expires.tzinfo else None) > expires:
            return f"task {self.id} expired at {expires.isoformat()}"
        for name, stamp in self.stamps.items():
            if name in state.revoked_stamps and _common(stamp, state.revoked_stamps[name]):
                return f"tasks with the stamp {name}={stamp} were revoked with `celery control`"
        return ""

    def mark(self, why: str) -> None:
        """Let the task make a dead letter of this run, under another task id."""
        expired = " expired at " in why
        self._tell_revoked(terminated=False, number=None, expired=expired)
        # The pool discards jobs with a revoked id, too.
        known = state.requests.pop(self.id, None)
        self.id = self._request_dict["id"] = named_id(f"{self.id}/revoked")
        self._request_dict[SPECIAL] = [REVOKED, why]
        if known is not None:
            state.requests[self.id] = known

    # -- ended during the run ------------------------------------------------------------------------------------------

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Send the signal. `_announce_revoked` is called once the process has ended; if it goes on, so does the run."""
        self._sent = number = signals.signum(signal or "TERM")
        if not self.time_start:
            super().terminate(pool, number)
            return
        if event_loop.terminate(self.id, f"it was ended with {signal_in_words(number)} by `celery control`"):
            # A coroutine in this process. Its run makes a dead letter, and acks the message.
            self._tell_revoked(terminated=True, number=number, expired=False)
            return
        if pool.is_green:
            # The pool reports a killed greenlet as a success.
            self.acknowledge = lambda: self._announce_revoked("terminated", True, number, False)
        pool.terminate_job(self.worker_pid, number)
        result = self._apply_result and self._apply_result()
        if result is not None:
            result.terminate(number)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:  # noqa: ARG002
        """Called when the run was terminated: note that, and put the message back."""
        if not (self.is_alone or self._sent):  # another event of its batch was: this one runs again, alone
            self.reject(requeue=UNCOUNTED)
            return
        number = self._sent or abs(int(signum or 0))
        self._record_end(
            End.TERMINATED, f"it was ended with {signal_in_words(number)} by `celery control`: {self._process}"
        )
        self._tell_revoked(terminated=terminated, number=number, expired=expired)
        self.reject(requeue=True)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Called when a time limit has passed, before the process is ended for a hard one."""
        if not soft and not state.should_terminate:
            end = End.TIME_LIMIT if self.is_alone else End.LOST  # of a batch nobody knows which event took too long
            self._record_end(end, f"the time limit of {timeout:g} s was exceeded: {self._process}")
        with unreported():
            super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """
        Called in the worker's main process when the run has failed, or its process has ended.

        ``return_ok``: the task itself has failed, and has recorded that.
        """
        error = _error_in(exc_info)
        if isinstance(error, WorkerLostError) and not state.should_terminate:
            self._record_end(End.LOST, f"{self._process} ended with {_exit_of(error)}")
        # A notice is acked: its dead letter is kept already, and another one would only have another notice.
        if not return_ok and not self.acknowledged and hasattr(self.task, "subscription"):
            self._keep_unread(error)
        with about_handler(self.task.name) if isinstance(error, WorkerLostError) else unreported():
            return super().on_failure(exc_info, send_failed_event, return_ok)

    def _keep_unread(self, error: Any) -> None:
        if isinstance(error, _UNKNOWN):
            self.reject(requeue=True)
        elif isinstance(error, Exception) and not isinstance(error, _KNOWN):
            fault = EnvelopeError(f"the pool cannot run it: {error!r}")
            if not keep(self.app, self.message, fault):
                self.reject(requeue=UNCOUNTED)

    @property
    def _process(self) -> str:
        return f"process {self.worker_pid} of {self.hostname}"

    def _record_end(self, end: End, text: str) -> None:
        try:
            claim = self.task.claim_of(self.args[0], self.request_dict.get("retries") or 0)
            if claim is not None:
                how = Ending(end, text).to_text()
                self.app.runtime.store.record_end(claim.handler, claim.unit, how, self._tokens())
        except Exception as error:  # the message returns to its queue in any case
            logger.warning("%s: it could not be noted that %s: %s", self.humaninfo(), text, error)

    def _tokens(self) -> list[str]:
        """The tokens that the claim of this run may have: those of its process, and that of its message on Redis."""
        receipt = Receipt.of(self.message.properties)
        # A run of the gevent pool has the number of its greenlet in place of a process id.
        return [tokens_of(self.worker_pid), tokens_of(os.getpid()), *([receipt.tag] if receipt else [])]

    def _tell_revoked(self, *, terminated: bool, number: int | None, expired: bool) -> None:
        self.send_event("task-revoked", terminated=terminated, signum=number, expired=expired)
        task_revoked.send(self.task, request=self._context, terminated=terminated, signum=number, expired=expired)


def _error_in(exc_info: Any) -> Any:
    """The error itself, without the traceback that a pool child adds to it."""
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _common(one: Any, other: Any) -> bool:
    values: Iterable[Any] = maybe_list(other)
    return any(value in values for value in maybe_list(one))


def _exit_of(error: WorkerLostError) -> str:
    """How the process ended, in the words of the pool: ``signal 9 (SIGKILL)``, ``exit code 3``."""
    words = str(error).removeprefix("Worker exited prematurely: ").partition(" Job: ")[0]
    return words.rstrip(".").replace("exitcode", "exit code")
