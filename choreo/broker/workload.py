"""
The state of the Celery worker in this process: is it stopping, and which deliveries does it have?

It is read from Celery's own lists, and only if Celery's worker is loaded: the transport also serves other programs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

_STATE = "celery.worker.state"


def _worker() -> Any:
    """`celery.worker.state` if it is loaded, else None."""
    return sys.modules.get(_STATE)


def is_stopping() -> bool:
    """True if the worker is shutting down. It gives back the deliveries that it has not begun, and their claims."""
    worker = sys.modules.get(_STATE)  # not by `_worker`: this is asked twice for each event
    if worker is None:
        return False
    soon, now = worker.should_stop, worker.should_terminate
    if soon is None and now is None:
        return False
    # Celery sets them to an exit code, which may be 0: that means True.
    return not ((soon is None or soon is False) and (now is None or now is False))


def started_tags() -> set[str]:
    """The delivery tags of what the pool has begun, or can no longer be kept from beginning."""
    return _tags_of(started_requests())


def started_requests() -> list[Any]:
    """
    Returns the requests that the pool has begun, and those that were written to a pool child.

    A child begins what is in its pipe. It does not know that its worker is stopping, and nothing can be taken back.
    """
    worker = _worker()
    if worker is None:
        return []
    written = [request for request in listed(worker.reserved_requests) if written_job(request) is not None]
    return [*listed(worker.active_requests), *written]


def written_job(request: Any) -> Any:
    """Returns the pool's job of a request, if any of it was written to a pool child; else None."""
    # A `Run` would make Celery's request if it were asked for an attribute that it does not have.
    reference = vars(request).get("_apply_result")
    job = reference and reference()
    return job if getattr(job, "_write_to", None) is not None else None


def unstarted_count() -> int:
    """How many deliveries wait for a free place in the pool."""
    worker = _worker()
    return len(worker.reserved_requests) - len(worker.active_requests) if worker is not None else 0


def goes_on_with(tags: Iterable[str]) -> bool:
    """True if the worker has some of these deliveries, and is not shutting down."""
    return has(tags) and not is_stopping()


def has(tags: Iterable[str]) -> bool:
    """True if the worker has some of these deliveries, begun or not."""
    worker = _worker()
    if worker is None:
        return False
    return not _tags_of([*listed(worker.active_requests), *listed(worker.reserved_requests)]).isdisjoint(tags)


def listed(requests: Iterable[Any]) -> list[Any]:
    """A copy of one of Celery's sets of requests, which the pool's threads change meanwhile."""
    while True:
        try:
            return list(requests)
        except RuntimeError:
            continue  # the set changed during the copy


def _tags_of(requests: Iterable[Any]) -> set[str]:
    return {str(request.message.delivery_tag) for request in listed(requests)}
