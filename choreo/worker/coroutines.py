"""What a worker gives to the coroutines of its ``async def`` handlers: the current task of Celery, and time limits."""

from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any

from celery._state import _task_stack
from celery.signals import worker_process_shutdown, worker_shutdown

from choreo.event_loop import NO_SURROUNDINGS, Surroundings, TimeLimits, shared
from choreo.worker.batch_task import members_in


def serve(worker: Any, *, in_process: bool) -> None:
    """
    Let coroutines of this worker's handlers have their surroundings. Called before the pool starts.

    ``in_process``: the pool runs in the worker's own process. The event loop then keeps the time limits; the prefork
    pool does that itself, with signals.
    """
    shared.surroundings = current_surroundings
    if in_process:
        shared.limits = partial(_limits_of, worker)
    for ends in (worker_process_shutdown, worker_shutdown):
        ends.connect(_close, weak=False, dispatch_uid="choreo.event_loop")


def _close(**_: Any) -> None:
    shared.close()


def _limits_of(worker: Any, handler: str) -> TimeLimits:
    task = worker.app.tasks.get(handler)
    soft, hard = (getattr(task, name, None) for name in ("soft_time_limit", "time_limit"))
    return TimeLimits(soft or worker.soft_time_limit, hard or worker.time_limit)


def current_surroundings() -> Surroundings:
    """The ids of the runs of this thread's current task, and a wrapper that makes it the current one of a coroutine."""
    task = _task_stack.top
    context = task.request_stack.top if task is not None else None
    if context is None:
        return NO_SURROUNDINGS
    keys = members_in(context.args) or ((str(context.id),) if context.id else ())
    return Surroundings(keys, partial(CurrentTask, task, context))


class CurrentTask(Coroutine[Any, Any, Any]):
    """
    A coroutine in whose steps Celery has a current task.

    Celery keeps it in a stack for each thread, and on the event loop's thread the steps of many runs alternate. So a
    step pushes its own, and pops it: ``app.current_task`` and the parent of a task that the handler sends are right.
    """

    __slots__ = ("_context", "_coroutine", "_task")

    def __init__(self, task: Any, context: Any, coroutine: Any) -> None:
        self._task, self._context, self._coroutine = task, context, coroutine

    def send(self, value: Any) -> Any:
        """Make one step."""
        requests = self._task.request_stack
        _task_stack.push(self._task)
        requests.push(self._context)
        try:
            return self._coroutine.send(value)
        finally:
            _task_stack.pop()
            requests.pop()

    def throw(self, *error: Any) -> Any:
        """Make a step that begins with an error."""
        requests = self._task.request_stack
        _task_stack.push(self._task)
        requests.push(self._context)
        try:
            return self._coroutine.throw(*error)
        finally:
            _task_stack.pop()
            requests.pop()

    def close(self) -> None:
        """End it."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        """Await the coroutine itself."""
        return self._coroutine.__await__()  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        """The other attributes are the coroutine's: asyncio and debuggers read its name and its frame."""
        return getattr(self._coroutine, name)


def is_async(task: Any) -> bool:
    """True if the task is that of a handler whose calls return a coroutine."""
    subscription = getattr(task, "subscription", None)
    return subscription is not None and bool(subscription.reaction.is_async)


def places_of(consumer: Any) -> int:
    """How many coroutines may be in flight in the worker of this consumer: its concurrency (``-c``)."""
    worker = consumer.controller
    return int(getattr(worker, "max_concurrency", None) or worker.concurrency)
