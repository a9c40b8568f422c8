"""Holding a delivery until the store is back.

RabbitMQ counts each delivery that is given back, and takes the event for poison when that happens too often. While the
store is away nothing is wrong with the event, so it is not given back once a second: it is held.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, repeat

from choreo.broker.workload import is_stopping
from choreo.errors import StoreError
from choreo.store.schedule import DELAYED, TENDED, Schedule

#: Seconds between two looks at the store; the last goes on.
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: Seconds after which a delivery is given back all the same: RabbitMQ allows a handler half an hour, and a pool child
#: does not hear that its worker is stopping.
MOST = 600.0
#: Seconds after which it is noticed that the worker is stopping.
STEP = 0.25


def outlast(store: Schedule, sleep: Callable[[float], None] = time.sleep) -> None:
    """Return when the store takes something again, when this worker is stopping, or after `MOST` seconds."""
    held = 0.0
    for pause in chain(PAUSES, repeat(PAUSES[-1])):
        until = held + pause
        while held < until:
            if is_stopping() or held >= MOST:
                return
            sleep(STEP)
            held += STEP
        with suppress(StoreError):
            # One that is full, or only a replica by now, still answers a ping.
            store.tend(DELAYED, TENDED)
            return
