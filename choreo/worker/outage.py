"""Giving back a delivery of which nothing could be recorded: at once, or once the store is back.

RabbitMQ counts each delivery that is given back, and gives up on an event after its delivery limit. While the store is
away, nothing is wrong with the event. So the worker holds the delivery instead of giving it back once a second.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, repeat

from celery.exceptions import Reject

from choreo.broker.incoming import UNCOUNTED
from choreo.broker.queue import STORE_PAUSE
from choreo.broker.workload import is_stopping
from choreo.errors import StoreError
from choreo.store.schedule import DELAYED, TENDED, Schedule

logger = logging.getLogger(__name__)

#: Seconds between two tries of the store; the last one repeats.
PAUSE_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: Seconds after which a delivery is given back even so: RabbitMQ allows a handler half an hour, and a pool child does
#: not know that its worker is stopping.
MOST_SECONDS = 600.0
#: Seconds between two checks if the worker is stopping.
CHECK_SECONDS = 0.25


def reject_after_outage(what: object, store: Schedule, error: StoreError) -> Reject:
    """Hold a delivery while the store is away. Returns the error that gives it back, which is not counted."""
    logger.error("%s: %s; it is held until the store is back", what, error)
    with suppress(BaseException):
        outlast(store)
    return Reject(error, requeue=UNCOUNTED)


def reject_after_pause(error: BaseException) -> Reject:
    """Pause for `STORE_PAUSE` seconds. Returns the error that gives the delivery back, which is counted."""
    with suppress(BaseException):
        time.sleep(STORE_PAUSE)
    return Reject(error, requeue=True)


def outlast(store: Schedule, sleep: Callable[[float], None] = time.sleep) -> None:
    """
    Return when the store accepts a write again, when this worker is stopping, or after `MOST_SECONDS`.

    ``sleep`` is a parameter for tests.
    """
    held = 0.0
    for pause in chain(PAUSE_SECONDS, repeat(PAUSE_SECONDS[-1])):
        until = held + pause
        while held < until:
            if is_stopping() or held >= MOST_SECONDS:
                return
            sleep(CHECK_SECONDS)
            held += CHECK_SECONDS
        with suppress(StoreError):
            # A write, because a Redis that is full or has become a replica still answers a ping.
            store.tend(DELAYED, TENDED)
            return
