"""
Running a handler's task with less ceremony than Celery's tracer.

Celery's tracer also serves result backends, chains, chords, callbacks, and tasks that were successful before. A
handler's task has none of these, and pays for the questions with each event. What is left of a success is here: the
request on its stack, the handler, the answer. Whatever else there may be to do is left to Celery: failures, and
everything where somebody listens to its signals or reads its log.
"""

from collections.abc import Callable, Mapping, Sequence
from logging import INFO
from time import monotonic
from typing import Any

from celery._state import _task_stack
from celery.app.task import Context, Task
from celery.app.trace import build_tracer, logger, trace_ok_t
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
    def instead_of(cls, args: Sequence[Any], error: BaseException) -> "list[Failed]":
        """The arguments of a run that failed. There may have been none, if somebody sent the task by hand."""
        failed = cls(args[0] if args else "")
        failed.error = error
        return [failed]


def brief(task: Any, celerys: Trace) -> Trace:
    """The tracer of a handler's task, beside the one that Celery has built for it, or somebody around that."""
    if not _can_be_brief(task, celerys):
        return celerys

    def trace(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        if is_listened_to():
            return celerys(uuid, args, kwargs, request)
        began = monotonic()
        answer, error = attempt(task, request or {}, args, kwargs)
        if error is not None:
            return celerys(uuid, Failed.instead_of(args, error), {}, request)
        return trace_ok_t(answer, None, monotonic() - began, shown(task, answer))

    return trace


def _can_be_brief(task: Any, celerys: Trace) -> bool:
    """Whether nobody reads of each run in the log, or has something to do at each."""
    # Sentry, for one, measures each run by wrapping the tracer.
    code = getattr(celerys, "__code__", None)
    is_celerys_own = code is not None and code.co_filename == build_tracer.__code__.co_filename
    return (
        is_celerys_own
        and not logger.isEnabledFor(INFO)
        and all(
            getattr(own, hook) is getattr(base, hook)
            for base, own in ((Task, type(task)), (BaseLoader, type(task.app.loader)))
            for hook in _HOOKS[base]
        )
    )


def is_listened_to() -> bool:
    """Whether somebody wants to be told of each run."""
    return bool(task_prerun.receivers or task_postrun.receivers or task_success.receivers)


def attempt(task: Any, request: Mapping[str, Any], args: Any, kwargs: Any) -> tuple[Any, BaseException | None]:
    """Run the task. Returns its answer and None, or None and what it raised."""
    requests = task.request_stack
    _task_stack.push(task)
    requests.push(Context(request, args=args, called_directly=False, kwargs=kwargs))
    try:
        return task.run(*args, **kwargs), None
    except BaseException as error:  # whatever it is, Celery knows what to do
        return None, error
    finally:
        _task_stack.pop()
        requests.pop()


def shown(task: Any, answer: Any) -> str:
    """The answer as Flower shows it."""
    longest: int = task.resultrepr_maxsize
    return repr(answer) if type(answer) is str and len(answer) < longest else str(saferepr(answer, longest))
