"""
Running a handler's task with less ceremony than Celery's tracer.

Celery's tracer also serves result backends, chains, chords, callbacks, and tasks that were successful before. A
handler's task has none of these, and pays for the questions with each event. What is left of a success is here: the
request on its stack, the handler, the answer. Whatever else there may be to do is left to Celery: failures, and
everything where somebody listens to its signals or reads its log.
"""

from collections.abc import Callable
from logging import INFO
from time import monotonic
from typing import Any

from celery._state import _task_stack
from celery.app.task import Context, Task
from celery.app.trace import logger, trace_ok_t
from celery.loaders.base import BaseLoader
from celery.signals import task_postrun, task_prerun, task_success
from celery.utils.saferepr import saferepr

#: A tracer's (uuid, args, kwargs, request).
Trace = Callable[..., Any]

#: What somebody may have overridden, and Celery's tracer would call.
_HOOKS = {
    Task: ("__call__", "before_start", "on_success", "after_return"),
    BaseLoader: ("on_task_init", "on_process_cleanup"),
}


class Failed(str):
    """An event whose handler has failed already, for Celery to hear of it: running it raises ``error``."""

    __slots__ = ("error",)
    error: BaseException

    @classmethod
    def of(cls, event: Any, error: BaseException) -> "Failed":
        failed = cls(event)
        failed.error = error
        return failed


def brief(task: Any, celerys: Trace) -> Trace:
    """The tracer of a handler's task, beside the one that Celery has built for it."""
    if logger.isEnabledFor(INFO):
        return celerys
    for base, own in ((Task, type(task)), (BaseLoader, type(task.app.loader))):
        if any(getattr(own, hook) is not getattr(base, hook) for hook in _HOOKS[base]):
            return celerys
    requests, longest = task.request_stack, task.resultrepr_maxsize

    def trace(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        if task_prerun.receivers or task_postrun.receivers or task_success.receivers:
            return celerys(uuid, args, kwargs, request)
        began = monotonic()
        _task_stack.push(task)
        requests.push(Context(request or {}, args=args, called_directly=False, kwargs=kwargs))
        try:
            answer = task.run(*args, **kwargs)
        except BaseException as error:  # whatever it is, Celery knows what to do
            failure = error
        else:
            text = repr(answer) if type(answer) is str and len(answer) < longest else saferepr(answer, longest)
            return trace_ok_t(answer, None, monotonic() - began, text)
        finally:
            _task_stack.pop()
            requests.pop()
        return celerys(uuid, [Failed.of(args[0], failure)], kwargs, request)

    return trace
