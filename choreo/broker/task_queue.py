"""The queue of a service's ordinary Celery tasks: those that are called by name, and not by an event.

Celery dies of some messages and drops others. Here too, what it could not run is set aside as a dead letter.
"""

from collections.abc import Callable, Container
from datetime import datetime
from typing import Any

from choreo.broker.incoming import Headers, Incoming, brief
from choreo.broker.queue import GuardedQueue
from choreo.errors import EnvelopeError
from choreo.message import JSON


class TaskQueue(GuardedQueue):
    """A queue of calls to ``tasks()``, the tasks that the service has by name."""

    attrs = (*GuardedQueue.attrs, ("tasks", None))
    tasks: Callable[[], Container[str]]

    def read(self, message: Any) -> None:
        incoming = Incoming(message)
        headers = incoming.headers
        task = headers.get("task")
        if not isinstance(task, str) or task not in self.tasks():
            raise EnvelopeError(f"the service has no task {brief(task)}")
        _check_headers(headers)
        # Other serializers are the user's choice (accept_content), and Celery's to read.
        if incoming.content_type in (JSON, None):
            match incoming.body():
                case [list(), dict(), dict() | None]:
                    return
            raise EnvelopeError("the body is not that of a task message")

    def source(self) -> tuple[dict[str, Any], list[str]]:
        exchange: dict[str, Any] = self.exchange.as_dict(recurse=True)
        return exchange, [self.routing_key]


def _check_headers(headers: Headers) -> None:
    if not isinstance(headers.get("id"), str):
        raise EnvelopeError(f"the id is {brief(headers.get('id'))}, not a text")
    if not isinstance(headers.get("retries") or 0, int):
        raise EnvelopeError(f"retries is {brief(headers['retries'])}, not a number")
    for name in ("eta", "expires"):
        if not _is_time(headers.get(name)):
            raise EnvelopeError(f"{name} is {brief(headers[name])}, not a timestamp")
    match headers.get("timelimit"):
        case None | [int() | float() | None, int() | float() | None]:
            return
    raise EnvelopeError(f"timelimit is {brief(headers['timelimit'])}, not two numbers")


def _is_time(value: Any) -> bool:
    if value is None or isinstance(value, datetime):
        return True
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return True
