"""The strategy of a handler with a ``sequential_by``: it notes the order in which the events of each key come.

The places of a pool begin several events at a time, in any order. So the worker's main process gives each event its
place in the series when it comes.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.strategy import default

from choreo.delivery.kinds import delivery_to
from choreo.delivery.sequential import turn_of
from choreo.errors import ChoreoError
from choreo.worker.handler import read

logger = logging.getLogger(__name__)


def strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Return the function that a worker calls with each delivery to this handler: Celery's, after the note."""
    celerys: Callable[..., Any] = default(task, app, consumer, **options)

    def on_message(message: Any, *args: Any) -> Any:
        _note(task, message)
        return celerys(message, *args)

    return on_message


def _note(task: Any, message: Any) -> None:
    """Give the event its place. One that cannot be read, or while the store is away, gets none before it is handled."""
    try:
        arguments, *_ = message.payload
        delivery = delivery_to(task.runtime, task.subscription, read(arguments[0]), 1)
        turn = turn_of(delivery)
        if turn is not None:
            task.runtime.store.enter_series(turn)
    except (ChoreoError, ValueError, TypeError, LookupError) as error:
        logger.debug("%s: an event has no place in its series yet: %s", task.name, error)
