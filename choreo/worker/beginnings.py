"""
Which calls of ordinary tasks had begun when their worker ended.

RabbitMQ's classic queues tell that a delivery came back, and not whether it had begun. A worker that is killed again
and again also holds calls that wait for their turn: they are not what ends it. So their returns do not count.

A return is counted when the call is read (`choreo.broker.task_queue`), since the reading may be what ends the worker.
That is taken back when Celery's request is made, and counted again when the run begins. Only deliveries that came back
are counted at all.
"""

from contextlib import suppress
from typing import Any

from celery.utils.imports import symbol_by_name
from celery.worker.request import Request

from choreo.broker.task_queue import RETURNED
from choreo.errors import StoreError
from choreo.worker.task import SafeTask


class CountedRequest(Request):
    """Celery's request for a call of an ordinary task. Its return counts if it has begun."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._count(-1)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Called when a process or thread of the pool begins the run."""
        self._count(1)
        super().on_accepted(pid, time_accepted)

    def _count(self, by: int) -> None:
        returned = (self.message.delivery_info or {}).get(RETURNED)
        if returned is not None:
            with suppress(StoreError):  # it counts a little wrong, which the limit leaves room for
                returned(by)


def count_beginnings(app: Any) -> None:
    """Let Celery make a `CountedRequest` for each call of an ordinary task. A class of the user's is extended."""
    for task in app.tasks.values():
        base = symbol_by_name(task.Request)
        if not isinstance(task, SafeTask) and not issubclass(base, CountedRequest):
            task.Request = CountedRequest if base is Request else type("CountedRequest", (CountedRequest, base), {})
