"""The children of the prefork pool: one that is killed at a bad moment, and why a worker then ends."""

import logging
from typing import Any

from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.exceptions import WorkerLostError

logger = logging.getLogger(__name__)


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


def describe_loss(error: BaseException) -> str | None:
    """Why the pool cannot go on, in one line; None if the error is another one."""
    if isinstance(error, WorkerLostError):
        return (
            f"{error}. A process of the prefork pool ended by itself before the worker was ready; the lines above have "
            "its exit code"
        )
    # Celery's pool finds no free place for a new child, because it has not cleared that of a killed one yet.
    if isinstance(error, StopIteration) or isinstance(error.__cause__, StopIteration):
        return "its prefork pool lost a process at a moment at which Celery cannot replace it"
    return None
