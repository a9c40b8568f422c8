"""Worker events (what Flower reads), sent in fewer and larger messages."""

from typing import Any

from celery.app.events import Events
from celery.events.dispatcher import EventDispatcher

#: Seconds for which worker events are collected. Celery's own way is to send them at each turn of the event loop,
#: which with a pool of processes is at each handled event, and costs more than handling it.
COLLECT_SECONDS = 0.1

#: The most that is collected.
BUFFER = 1000


class ServiceDispatcher(EventDispatcher):
    """Celery's dispatcher with a larger buffer, which outlives its connection."""

    def __init__(self, *args: Any, buffer_limit: int = BUFFER, **options: Any) -> None:
        super().__init__(*args, buffer_limit=buffer_limit, **options)

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what another dispatcher has not sent, now that its connection is gone."""
        super().extend_buffer(other)
        for group, events in other._group_buffer.items():
            self._group_buffer[group].extend(events)


class ServiceEvents(Events):
    """``app.events`` of a service."""

    dispatcher_cls = "choreo.worker.events:ServiceDispatcher"
