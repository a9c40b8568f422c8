"""The queue of a service's ordinary Celery tasks, which are called by their name and not by an event.

A message that Celery would drop, or that would end the worker, is set aside as a dead letter.
"""

from collections.abc import Callable, Container
from datetime import UTC, datetime
from typing import Any

from choreo.broker.incoming import Headers, Incoming, brief
from choreo.broker.queue import GuardedQueue
from choreo.broker.signatures import check_builtin, check_following
from choreo.errors import EnvelopeError


class TaskQueue(GuardedQueue):
    """
    A queue of calls to the service's tasks.

    ``tasks`` and ``accept`` are callbacks: they return the names of the tasks, and the allowed content types.
    """

    attrs = (*GuardedQueue.attrs, ("tasks", None), ("accept", None))
    tasks: Callable[[], Container[str]]
    accept: Callable[[], Container[str]]

    def read(self, message: Any) -> None:
        """Check that Celery can run the message, and leave it as it is. Raises `EnvelopeError` when it cannot."""
        incoming = Incoming(message)
        headers = incoming.headers
        task = headers.get("task")
        if not isinstance(task, str) or task not in self.tasks():
            raise EnvelopeError(f"the service has no task {brief(task)}")
        _check_headers(headers)
        # The user chooses the serializers (accept_content). Celery would drop a body that it cannot read.
        match incoming.decoded(self.accept()):
            case [(list() | tuple()) as args, dict(kwargs), (dict() | None) as embed]:
                check_following(embed or {})
                check_builtin(task, args, kwargs)
                return
        raise EnvelopeError("the body is not that of a task message")

    def source(self) -> tuple[dict[str, Any], list[str]]:
        """The queue's own exchange, as plain values, and its routing key."""
        exchange: dict[str, Any] = self.exchange.as_dict(recurse=True)
        return exchange, [self.routing_key]


def _check_headers(headers: Headers) -> None:
    if not isinstance(headers.get("id"), str):
        raise EnvelopeError(f"the id is {brief(headers.get('id'))}, not a text")
    # Celery and Flower show them.
    for name in ("id", "shadow", "root_id", "parent_id", "group"):
        if not _is_printable(headers.get(name)):
            raise EnvelopeError(f"{name} is {brief(headers[name])}, not a text that can be printed")
    if not isinstance(headers.get("retries") or 0, int):
        raise EnvelopeError(f"retries is {brief(headers['retries'])}, not a number")
    for name in ("eta", "expires"):
        if not _is_time(headers.get(name)):
            raise EnvelopeError(f"{name} is {brief(headers[name])}, not a timestamp")
    match headers.get("timelimit"):
        case None | [int() | float() | None, int() | float() | None]:
            pass
        case limit:
            raise EnvelopeError(f"timelimit is {brief(limit)}, not two numbers")
    # Celery compares these with the revoked stamps.
    names, stamps = headers.get("stamped_headers"), headers.get("stamps")
    if not (names is None or (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names))):
        raise EnvelopeError(f"stamped_headers is {brief(names)}, not a list of names")
    if not (stamps is None or isinstance(stamps, dict)):
        raise EnvelopeError(f"stamps is {brief(stamps)}, not a table")


def _is_printable(value: Any) -> bool:
    """True for None, and for a text without control characters and the like."""
    return value is None or (isinstance(value, str) and value.isprintable())


def _is_time(value: Any) -> bool:
    if value is None:
        return True
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        # Near the first and the last year the time in UTC may be out of range.
        time.astimezone(UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return False
    return True
