"""
For tests of services: nothing here needs a broker, a server or a worker. See docs/testing.md.

- `announced`: an event with metadata, for calling a handler as a function.
- `context`: a `choreo.Context`, for calling a handler that takes one.
- `stage`: a whole platform in this process, with a clock that a test can turn.
- `recorder`: the events that a web endpoint or a script announces.
"""

from choreo.testing.announced import announced
from choreo.testing.context import context
from choreo.testing.found import Found
from choreo.testing.log import Delivered
from choreo.testing.loop import EndlessLoopError
from choreo.testing.queues import PendingDelivery
from choreo.testing.recorder import Recorder, recorder
from choreo.testing.stage import Stage, stage

__all__ = [
    "Delivered",
    "EndlessLoopError",
    "Found",
    "PendingDelivery",
    "Recorder",
    "Stage",
    "announced",
    "context",
    "recorder",
    "stage",
]
