"""
A short tracer for the task around a handler. (In Celery a tracer is the function that runs a task.)

Celery's tracer also serves result backends, chains, chords, callbacks, and tasks that succeeded before. A handler's
task has none of these, but Celery checks for them at each event. The short tracer does only what a success needs: it
pushes the request on its stack, runs the task, and returns the answer. Celery's own tracer does everything else:
failures, and every run that a signal receiver, a log line or a foreign wrapper observes.
"""

from collections.abc import Callable, Mapping, Sequence
from inspect import getclosurevars
from logging import DEBUG
from time import monotonic
from types import FunctionType
from typing import Any

from celery._state import _task_stack
from celery.app.task import Context
from celery.app.trace import logger, trace_ok_t
from celery.loaders.base import BaseLoader
from celery.signals import task_postrun, task_prerun, task_success
from celery.utils.saferepr import saferepr

#: A tracer. Callback: gets uuid, args, kwargs, request, and returns Celery's answer for the pool.
Trace = Callable[..., Any]

#: Variables of Celery's tracer that hold the hooks of a task's class. None: the class does not override that hook.
_HOOKS = ("task_before_start", "task_on_success", "task_after_return")
#: Fields of a request that add work after one run. A program can set them when it sends the task itself.
_WISHES = ("callbacks", "errbacks", "chain", "chord")


class Failed(str):
    """
    An event whose handler has failed already. Running it raises ``error``, so that Celery reports the failure.

    See `FastHandlerTask.run`.
    """

    __slots__ = ("error",)
    error: BaseException

    @classmethod
    def instead_of(cls, event: str, error: BaseException) -> "Failed":
        """This event, with the error that its handler raised."""
        failed = cls(event)
        # Raising it again adds the frames of `attempt` and of the task's `run` once more, so they are cut off here.
        trace = error.__traceback__ and error.__traceback__.tb_next
        failed.error = error.with_traceback(trace and trace.tb_next)
        return failed


def tracer_for(task: Any, celerys: Trace) -> Trace:
    """
    The tracer to use for a handler's task.

    ``celerys`` is the one that Celery has built for the task, perhaps wrapped by a foreign library. It is returned as
    it is if something observes every run, else a short tracer, which calls it where a run needs more.
    """
    if not _may_be_short(task, celerys):
        return celerys

    def trace(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        if is_listened_to() or not _is_an_event(args, kwargs, request):
            return celerys(uuid, args, kwargs, request)
        began = monotonic()
        context = Context(request, args=args, called_directly=False, kwargs=kwargs)
        answer, error = attempt(task, context, args, kwargs)
        if error is not None:
            return celerys(uuid, [Failed.instead_of(args[0], error)], {}, request)
        return trace_ok_t(answer, None, monotonic() - began, shown(task, answer))

    return trace


def _may_be_short(task: Any, celerys: Trace) -> bool:
    """True if neither the log, nor a hook, nor a foreign wrapper observes every run."""
    # Sentry and others measure each run: they wrap the tracer, or let Celery build it for a wrapped task.
    if logger.isEnabledFor(DEBUG) or not _is_celerys(celerys):
        return False
    knows = getclosurevars(celerys).nonlocals
    run, call, loader = task.run, type(task).__call__, type(task.app.loader)
    return (
        knows.get("task") is task
        # In a worker Celery calls the task, whose `__call__` it has replaced by one that calls `run`.
        and (knows.get("fun") == run or (knows.get("fun") is task and _is_celerys(call)))
        and all(knows.get(hook, task) is None for hook in _HOOKS)
        and all(getattr(loader, hook) is getattr(BaseLoader, hook) for hook in ("on_task_init", "on_process_cleanup"))
    )


def _is_celerys(function: Any) -> bool:
    """True if this is Celery's own function, and no wrapper around it."""
    return type(function) is FunctionType and function.__globals__["__name__"].startswith("celery.")


def _is_an_event(args: Sequence[Any], kwargs: Mapping[str, Any], request: Mapping[str, Any] | None) -> bool:
    """True if this run is an event, with nothing to do after it. A program can also send the task as any other task."""
    return (
        request is not None
        and request.get("ignore_result") is True
        and not any(map(request.get, _WISHES))
        and len(args) == 1
        and isinstance(args[0], str)
        and type(args[0]) is not Failed
        and not kwargs
    )


def is_listened_to() -> bool:
    """True if one of Celery's signals around a run has a receiver."""
    return bool(task_prerun.receivers or task_postrun.receivers or task_success.receivers)


def attempt(
    task: Any, context: Context, args: Any, kwargs: Any, *, here_again: bool = False
) -> tuple[Any, BaseException | None]:
    """
    Run the task. Returns its answer and None, or None and the error that it raised, of any kind.

    ``here_again``: True if this thread runs more tasks, and may keep its empty stacks. A greenlet that runs one task
    must not leave any behind.
    """
    requests = task.request_stack
    tasks, contexts = _task_stack.push(task), requests.push(context)
    try:
        return task.run(*args, **kwargs), None
    except BaseException as error:  # Celery's tracer handles every kind
        return None, error
    finally:
        # Celery's own `pop` throws an empty list away; making one for each run takes several times as long as this.
        # `push` returns the list, but not with every kind of Celery's stacks.
        if here_again and tasks is not None and contexts is not None:
            tasks.pop()
            contexts.pop()
        else:
            _task_stack.pop()
            requests.pop()


def shown(task: Any, answer: Any) -> str:
    """The answer as Flower shows it, cut to the task's `resultrepr_maxsize`."""
    longest: int = task.resultrepr_maxsize
    return repr(answer) if type(answer) is str and len(answer) < longest else str(saferepr(answer, longest))
