"""Celery's request for one run of a handler: no delivery is acked whose run did not begin."""

from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
from billiard.pool import MaybeEncodingError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request

from choreo.broker.incoming import UNCOUNTED
from choreo.errors import EnvelopeError
from choreo.worker.unrunnable import keep

#: Errors of the pool after which Celery returns the message to its queue, as it must, or knows the outcome of the run.
_KNOWN = (WorkerLostError, Terminated, TimeLimitExceeded, MemoryError, Ignore, Reject, Retry)

#: Errors of the pool outside of the task, after which the outcome of the run is not known: a time limit, and an answer
#: of the child that it could not write. The message comes again, and the inbox knows if the run was recorded.
_UNKNOWN = (SoftTimeLimitExceeded, MaybeEncodingError)


class KeepingRequest(Request):
    """
    Celery's request. It never acks a delivery whose run did not begin.

    Celery acks a message that the child of a pool cannot read, like that of any task that failed. The task itself has
    recorded nothing then. So the delivery becomes a dead letter; without a store it returns to its queue.
    """

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Called in the worker's main process. ``return_ok``: the task itself has failed, and has recorded that."""
        error = error_in(exc_info)
        # A notice is acked: its dead letter is kept already, and another one would only have another notice.
        if not return_ok and not self.acknowledged and hasattr(self.task, "subscription"):
            if isinstance(error, _UNKNOWN):
                self.reject(requeue=True)
            elif isinstance(error, Exception) and not isinstance(error, _KNOWN):
                fault = EnvelopeError(f"the pool cannot run it: {error!r}")
                if not keep(self.app, self.message, fault):
                    self.reject(requeue=UNCOUNTED)
        return super().on_failure(exc_info, send_failed_event, return_ok)


def error_in(exc_info: Any) -> Any:
    """The error itself, without the traceback that a pool child adds to it."""
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error
