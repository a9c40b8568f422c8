"""The queue of a service's ordinary Celery tasks, which are called by their name and not by an event.

A message that Celery would drop, or that would end the worker, is set aside as a dead letter.
"""

import math
import re
from collections.abc import Callable, Container
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import amqp

from choreo.broker.incoming import Headers, Incoming, shortened
from choreo.broker.queue import GuardedQueue
from choreo.broker.signatures import check_builtin, check_following
from choreo.errors import EnvelopeError, StoreError, UnansweredError

#: Half a surrogate pair: a character that UTF-8 cannot write.
_SURROGATE = re.compile("[\ud800-\udfff]")
#: The name in `message.delivery_info` of a callback that counts one more return of the delivery; with -1, one less.
#: Only a delivery that came back, and was counted, has it: see `choreo.worker.beginnings`.
RETURNED = "choreo_returned"


class TaskQueue(GuardedQueue):
    """
    A queue of calls to the service's tasks.

    ``tasks`` and ``accept`` are callbacks: they return the names of the tasks, and the allowed content types.
    ``returned`` is a callback that counts the returns of a delivery, as `choreo.store.claims.Claims.returned` does: on
    RabbitMQ this is a classic queue, which counts none.
    """

    attrs = (*GuardedQueue.attrs, ("tasks", None), ("accept", None), ("returned", None))
    tasks: Callable[[], Container[str]]
    accept: Callable[[], Container[str]]
    returned: Callable[..., int]

    def make_runnable(self, message: Any) -> None:
        """Check that Celery can run the message, and leave it as it is. Raises `EnvelopeError` when it cannot."""
        incoming = Incoming(message)
        headers, call = incoming.headers, None
        if "task" not in headers:
            headers, call = _first_protocol(incoming.decoded(self.accept()))
        task = headers.get("task")
        if not isinstance(task, str) or task not in self.tasks():
            raise EnvelopeError(f"the service has no task {shortened(task)}")
        _check_headers(headers)
        if isinstance(message, amqp.Message):
            self._check_returns(message, headers)
        # The user chooses the serializers (accept_content). Celery would drop a body that it cannot read.
        match call or incoming.decoded(self.accept()):
            case [(list() | tuple()) as args, dict(kwargs), (dict() | None) as embed]:
                check_following(embed or {})
                check_builtin(task, args, kwargs)
                return
        raise EnvelopeError("the body is not that of a task message")

    def _check_returns(self, message: Any, headers: Headers) -> None:
        if not message.delivery_info.get("redelivered"):
            return
        # A call and its retries are messages of their own, with one id.
        returned = partial(self.returned, self.handler, f"{headers['id']} {headers.get('retries')}")
        with suppress(StoreError):  # it is counted once the store is back
            if (count := returned()) > self.most_returns:
                raise UnansweredError(f"it came back {count} times, and was never settled")
            message.delivery_info[RETURNED] = returned

    def source(self) -> tuple[dict[str, Any], list[str]]:
        """The queue's own exchange, as plain values, and its routing key."""
        exchange: dict[str, Any] = self.exchange.as_dict(recurse=True)
        return exchange, [self.routing_key]


def _first_protocol(body: Any) -> tuple[Headers, list[Any]]:
    """The headers and the body of the current protocol, from the body of a task message of Celery's protocol 1."""
    if not isinstance(body, dict) or "task" not in body:
        raise EnvelopeError("it names no task: neither in its headers, nor in its body as in Celery's protocol 1")
    embed = {name: body.get(name) for name in ("callbacks", "errbacks", "chord")}
    return body, [body.get("args", []), body.get("kwargs", {}), embed]


def _check_headers(headers: Headers) -> None:
    _check_texts(headers)
    if not isinstance(headers.get("id"), str):
        raise EnvelopeError(f"the id is {shortened(headers.get('id'))}, not a text")
    # Celery and Flower show them.
    for name in ("id", "shadow", "root_id", "parent_id", "group"):
        if not _is_printable(headers.get(name)):
            raise EnvelopeError(f"{name} is {shortened(headers[name])}, not a text that can be printed")
    if not isinstance(headers.get("retries") or 0, int):
        raise EnvelopeError(f"retries is {shortened(headers['retries'])}, not a number")
    for name in ("eta", "expires"):
        if not _is_time(headers.get(name)):
            raise EnvelopeError(f"{name} is {shortened(headers[name])}, not a timestamp")
    match headers.get("timelimit"):
        case None:
            pass
        case [hard, soft] if _is_limit(hard) and _is_limit(soft):
            pass
        case limit:
            raise EnvelopeError(f"timelimit is {shortened(limit)}, not two numbers of seconds, from 0")
    # Celery compares these with the revoked stamps.
    names, stamps = headers.get("stamped_headers"), headers.get("stamps")
    if not (names is None or (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names))):
        raise EnvelopeError(f"stamped_headers is {shortened(names)}, not a list of names")
    if not (stamps is None or isinstance(stamps, dict)):
        raise EnvelopeError(f"stamps is {shortened(stamps)}, not a table")


def _is_printable(value: Any) -> bool:
    """True for None, and for a text without control characters and the like."""
    return value is None or (isinstance(value, str) and value.isprintable())


def _check_texts(headers: Headers) -> None:
    """Raise `EnvelopeError` for a text, such as a task id, that neither a store of results nor a broker could write."""
    for name, value in headers.items():
        if isinstance(value, str) and _SURROGATE.search(value):
            raise EnvelopeError(f"{shortened(name)} is {shortened(value)}, which cannot be written as UTF-8")


def _is_limit(seconds: Any) -> bool:
    # A pool child with a negative limit is killed at once, again and again. 0 is no limit.
    return seconds is None or (isinstance(seconds, int | float) and 0 <= seconds < math.inf)


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
