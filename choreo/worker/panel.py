"""
Remote control commands that would answer "OK", and do nothing in a service.

Celery carries them out after it has answered, or where nothing looks at their effect. Workers of other apps in the same
process are not concerned.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.worker.control import Panel, inspect_command, nok

from choreo.worker.coroutines import is_async

#: Callback: returns the reason why a command does nothing with these arguments, or "".
Objection = Callable[..., str]


def _to_queue(state: Any, queue: str = "", **_: Any) -> str:
    """A queue of no handler gets no event; one of another service has events that this service does not know."""
    queues = state.app.amqp.queues
    if queue in queues:
        return ""
    return f"{state.app.service_name} has no queue {queue!r}. Its queues are {', '.join(sorted(queues))}."


def _to_limit(state: Any, task_name: str = "", soft: Any = None, hard: Any = None, **_: Any) -> str:
    """Only a pool of processes can end a plain handler, and only at limits that are seconds."""
    pool = state.consumer.pool
    if pool is None or isinstance(pool, PreforkPool) or is_async(state.app.tasks.get(task_name)):
        if _is_seconds(soft) and _is_seconds(hard) and not (soft and hard and soft >= hard):
            return ""
        return f"soft={soft!r} hard={hard!r}: the limits take seconds, and the soft one must be less than the hard one."
    kind = type(pool).__module__.rpartition(".")[2].replace("thread", "threads")
    return f"the {kind} pool cannot end a handler, so a time limit would do nothing. Use --pool prefork."


def _is_seconds(limit: Any) -> bool:
    return limit is None or (type(limit) in (int, float) and 0 <= limit < math.inf)


def _objecting(command: Callable[..., Any], objection: Objection) -> Callable[..., Any]:
    @wraps(command)
    def objecting(state: Any, *args: Any, **options: Any) -> Any:
        if hasattr(state.app, "service_name") and (reason := objection(state, *args, **options)):
            return nok(reason)
        return command(state, *args, **options)

    return objecting


def _renewing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Celery notes a new time limit at the task, and goes on with the one that it has read when it connected."""

    @wraps(command)
    def renewing(state: Any, *args: Any, **options: Any) -> Any:
        answer = command(state, *args, **options)
        if hasattr(state.app, "service_name") and "ok" in answer:
            state.consumer.call_soon(state.consumer.update_strategies)
        return answer

    return renewing


def _reporting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The register learns at once which queues are consumed. Celery has the consumer do its part a moment later."""

    @wraps(command)
    def reporting(state: Any, *args: Any, **options: Any) -> Any:
        answer = command(state, *args, **options)
        presence = getattr(getattr(state.consumer, "controller", None), "presence", None)
        if presence is not None:
            # Celery calls what is called soon in no order, so this is called after all that was called before it.
            state.consumer.call_soon(state.consumer.call_soon, presence.wake)
        return answer

    return reporting


def _looking(command: Callable[..., Any]) -> Callable[..., Any]:
    """The children of a prefork pool tell at the end of a bundle which of its runs they have begun; this asks now."""

    @wraps(command)
    def looking(state: Any, *args: Any, **options: Any) -> Any:
        runtime = getattr(state.app, "runtime", None)
        if runtime is not None and runtime.lane is not None:
            runtime.lane.look()
        return command(state, *args, **options)

    return looking


@inspect_command()
def choreo_pauses(state: Any, **_: Any) -> list[str]:
    """The paused handlers of this worker's service. The worker looks at them anew."""
    keeper = getattr(state.consumer.controller, "pauses", None)
    if keeper is None:
        return []
    keeper.wake()
    return [str(pause) for pause in keeper.pauses.values()]


Panel.data["add_consumer"] = _reporting(_objecting(Panel.data["add_consumer"], _to_queue))
Panel.data["cancel_consumer"] = _reporting(_objecting(Panel.data["cancel_consumer"], _to_queue))
Panel.data["time_limit"] = _objecting(_renewing(Panel.data["time_limit"]), _to_limit)
for _name in ("active", "reserved", "query_task"):
    Panel.data[_name] = _looking(Panel.data[_name])
