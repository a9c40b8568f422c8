"""
Deliveries that Celery takes and cannot run. They become dead letters, and the worker goes on.

The queues check each delivery before Celery gets it, so there should be none. This is the guard for forms that no check
knows: without it such a message would end one worker after another.
"""

import logging
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Reject
from celery.states import FAILURE
from celery.worker import state
from kombu.exceptions import KombuError, OperationalError

from choreo.broker.incoming import UNCOUNTED, shortened, source_of
from choreo.broker.queue import GuardedQueue, HandlerQueue
from choreo.broker.workload import listed
from choreo.errors import EnvelopeError
from choreo.worker.task import SafeTask

logger = logging.getLogger(__name__)

#: Errors that the content of a message can cause. Others, such as those of a pool that has stopped, are not its fault.
FAULTS = (
    *(TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, NotImplementedError),
    *(KombuError, Reject),
)


def keep(app: Any, message: Any, error: EnvelopeError) -> bool:
    """Keep a delivery of one of the service's queues as a dead letter. False, with lines in the log, if that failed."""
    return queue_of(app, message).keep(message, error)


def queue_of(app: Any, message: Any) -> GuardedQueue:
    """The queue from which a message came; the queue of ordinary tasks if it does not tell."""
    queues = app.amqp.queues
    queue = queues.get(source_of(message))
    found = queue if isinstance(queue, GuardedQueue) else queues[app.runtime.topology.default_queue]
    assert isinstance(found, GuardedQueue)
    return found


def guarded(consumer: Any, handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Celery's function for each message, ``handle``, with a guard. ``consumer`` is Celery's."""
    passing = (*consumer.connection_errors, *consumer.channel_errors, OperationalError)

    def on_message(message: Any) -> Any:
        try:
            return handle(message)
        except passing:
            raise
        except FAULTS as error:
            return _refuse(consumer, message, error)

    return on_message


def _refuse(consumer: Any, message: Any, error: Exception) -> None:
    for request in listed(state.reserved_requests):
        if getattr(request, "message", None) is message:
            state.task_ready(request)
    queue = queue_of(consumer.app, message)
    if message.acknowledged and isinstance(queue, HandlerQueue):
        # It is acked last, so its run has recorded the outcome, and the error came after that.
        logger.error(
            "%s: Celery could not finish a run that is recorded: %s", queue.name, shortened(error), exc_info=error
        )
        return
    kept = keep(consumer.app, message, EnvelopeError(f"Celery cannot run it: {shortened(error)}"))
    if message.acknowledged:
        return
    if kept:
        message.ack_log_error(logger, consumer.connection_errors)
    else:
        message.reject_log_error(logger, consumer.connection_errors, requeue=UNCOUNTED)


def guard_traces(app: Any) -> None:
    """
    Guard the runs of ordinary tasks in the worker's own process, after Celery has made their tracers.

    After a run Celery makes the calls that the message asks for: callbacks, a chain, a chord. An error there would end
    a worker of the solo pool, and be unseen in a pool of threads or greenlets. Now it is a failure of the task.
    """
    for task in app.tasks.values():
        if not isinstance(task, SafeTask) and task.__trace__ is not None:
            task.__trace__ = _guarded_trace(task.name, task.__trace__)


def _guarded_trace(name: str, trace: Callable[..., Any]) -> Callable[..., Any]:
    def run(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        try:
            return trace(uuid, args, kwargs, request)
        except Reject:
            raise
        except FAULTS as error:
            logger.exception("%s[%s]: Celery cannot make a call that should follow this run, and drops it", name, uuid)
            return trace_ok_t(ExceptionInfo(), TraceInfo(FAILURE, error), 0.0, None)

    return run
