"""Worker events (what Flower reads), sent in fewer and larger messages."""

from typing import Any

from celery.app.events import Events
from celery.events.dispatcher import EventDispatcher

#: A worker with an event loop sends what it has at each turn of the loop; this is only the most that it keeps.
BUFFER = 1000


class ServiceDispatcher(EventDispatcher):
    """
    Celery's dispatcher with a larger buffer.

    Celery flushes every 24 events, which is every eighth handled event, and each flush costs as much as a handler.
    """

    def __init__(self, *args: Any, buffer_limit: int = BUFFER, **options: Any) -> None:
        super().__init__(*args, buffer_limit=buffer_limit, **options)


class ServiceEvents(Events):
    """``app.events`` of a service."""

    dispatcher_cls = "choreo.worker.events:ServiceDispatcher"
