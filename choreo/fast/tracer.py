"""
Running a handler's task with less ceremony than Celery's tracer.

Celery's tracer also serves result backends, chains, chords, callbacks, and tasks that were successful before. A
handler's task has none of these, and pays for the questions with each event. What is left of a success is here: the
request on its stack, the handler, the answer. Whatever else there may be to do is left to Celery: failures, and
everything where somebody listens to its signals or reads its log.
"""

from collections.abc import Callable, Mapping, Sequence
from inspect import getclosurevars
from logging import INFO
from time import monotonic
from types import FunctionType
from typing import Any

from celery._state import _task_stack
from celery.app.task import Context
from celery.app.trace import logger, trace_ok_t
from celery.loaders.base import BaseLoader
from celery.signals import task_postrun, task_prerun, task_success
from celery.utils.saferepr import saferepr

#: A tracer's (uuid, args, kwargs, request).
Trace = Callable[..., Any]

#: What Celery's tracer knows of a task whose class does more than run, by its names there: None where it does not.
_HOOKS = ("task_before_start", "task_on_success", "task_after_return")
#: What somebody may ask of one run, if it was not the broker that sent it.
_WISHES = ("callbacks", "errbacks", "chain", "chord")


class Failed(str):
    """An event whose handler has failed already, for Celery to hear of it: running it raises ``error``."""

    __slots__ = ("error",)
    error: BaseException

    @classmethod
    def instead_of(cls, event: str, error: BaseException) -> "Failed":
        failed = cls(event)
        # Where it has been so far, in `attempt` and in the task's `run`, it will be again.
        trace = error.__traceback__ and error.__traceback__.tb_next
        failed.error = error.with_traceback(trace and trace.tb_next)
        return failed


def brief(task: Any, celerys: Trace) -> Trace:
    """The tracer of a handler's task, beside the one that Celery has built for it, or somebody around that."""
    if not _can_be_brief(task, celerys):
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


def _can_be_brief(task: Any, celerys: Trace) -> bool:
    """Whether nobody reads of each run in the log, or has something to do at each."""
    # Sentry and others measure each run: they wrap the tracer, or have Celery build it for a wrapped task.
    if logger.isEnabledFor(INFO) or not _is_celerys(celerys):
        return False
    knows = getclosurevars(celerys).nonlocals
    run, call, loader = task.run, type(task).__call__, type(task.app.loader)
    return (
        knows.get("task") is task
        # In a worker Celery calls the task itself, which has been taught there to call `run`.
        and (knows.get("fun") == run or (knows.get("fun") is task and _is_celerys(call)))
        and all(knows.get(hook, task) is None for hook in _HOOKS)
        and all(getattr(loader, hook) is getattr(BaseLoader, hook) for hook in ("on_task_init", "on_process_cleanup"))
    )


def _is_celerys(function: Any) -> bool:
    """Whether Celery itself has made this function, and nobody has put something around it."""
    return type(function) is FunctionType and function.__globals__["__name__"].startswith("celery.")


def _is_an_event(args: Sequence[Any], kwargs: Mapping[str, Any], request: Mapping[str, Any] | None) -> bool:
    """Whether this is a run of which nobody wants anything. Somebody may also send the task as any other."""
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
    """Whether somebody wants to be told of each run."""
    return bool(task_prerun.receivers or task_postrun.receivers or task_success.receivers)


def attempt(
    task: Any, context: Context, args: Any, kwargs: Any, *, here_again: bool = False
) -> tuple[Any, BaseException | None]:
    """
    Run the task. Returns its answer and None, or None and what it raised.

    ``here_again``: more will run in this thread; in a greenlet that runs one, nothing may stay behind.
    """
    requests = task.request_stack
    tasks, contexts = _task_stack.push(task), requests.push(context)
    try:
        return task.run(*args, **kwargs), None
    except BaseException as error:  # whatever it is, Celery knows what to do
        return None, error
    finally:
        # Celery's own `pop` throws away a list that is empty, and to make one for each run takes several times as long.
        # Not every kind of its stacks answers with its list.
        if here_again and tasks is not None and contexts is not None:
            tasks.pop()
            contexts.pop()
        else:
            _task_stack.pop()
            requests.pop()


def shown(task: Any, answer: Any) -> str:
    """The answer as Flower shows it."""
    longest: int = task.resultrepr_maxsize
    return repr(answer) if type(answer) is str and len(answer) < longest else str(saferepr(answer, longest))
