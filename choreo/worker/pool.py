"""The children of the prefork pool: one that is killed at a bad moment, and why a worker then ends."""

import logging
from traceback import walk_tb
from typing import Any

from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.exceptions import WorkerLostError

logger = logging.getLogger(__name__)

#: The modules of the prefork pool, and those that it and the event loop call.
_POOL = {"celery.concurrency.asynpool", "billiard.pool"}
_CALLED = {"billiard.common", "kombu.asynchronous.hub", "kombu.utils.compat"}


def replace_killed(pool: Any) -> None:
    """
    Replace the children that a signal has ended while their worker was starting.

    Celery ends the worker if any child is gone when its event loop begins. It still does so if one has ended by itself:
    the next ones would most likely end too.
    """
    children = getattr(pool, "_pool", None) if isinstance(pool, PreforkPool) else None
    ended = [code for child in getattr(children, "_pool", ()) if (code := child.exitcode) is not None]
    if ended and all(code < 0 for code in ended):
        logger.warning("%d pool process(es) were killed while the worker was starting, and are replaced", len(ended))
        pool.maintain_pool()


def watch_again(pool: Any) -> None:
    """
    Let the next event loop watch every child.

    If several children die at once, Celery may stop to watch the replacement of one, since file descriptors are reused.
    It then fails when the worker connects again.
    """
    children = getattr(pool, "_pool", None) if isinstance(pool, PreforkPool) else None
    for child in getattr(children, "_pool", ()):
        if getattr(child, "_sentinel_poll", 0) is None:
            del child._sentinel_poll


def describe_loss(error: BaseException) -> str | None:
    """Why the pool cannot go on, in one line; None if the error does not come from the prefork pool."""
    if isinstance(error, WorkerLostError):
        return f"{error}. A pool process ended by itself before the worker was ready: see its exit code above"
    cause = error.__cause__ if isinstance(error.__cause__, StopIteration) else error
    modules = [frame.f_globals.get("__name__") for frame, _ in walk_tb(cause.__traceback__)]
    if _POOL.intersection(modules) and modules[-1] in _POOL | _CALLED:
        return f"its prefork pool lost a process at a moment at which Celery cannot replace it ({error!r})"
    return None
