"""Celery's request for one run of a handler, in the fast lane."""

from typing import Any

from choreo.broker.incoming import EventText
from choreo.fast.channel import commits_of
from choreo.fast.rabbit_channel import place_of
from choreo.worker.request import SafeRequest


class HandlerRequest(SafeRequest):
    """
    The request of the fast lane. If the pool runs in the worker's own process, it hands the decoded message over.

    Celery's hands over the text, which is decoded twice: by the worker, to look at it, and by the pool. The run
    also finds the channel's commits in it: on Redis ``task.request.choreo_commits`` (see `choreo.fast.commits`), on
    RabbitMQ ``task.request.choreo_place`` (see `choreo.fast.rabbit_channel`).
    """

    def __init__(self, message: Any, *, app: Any, body: Any = None, decoded: bool = False, **options: Any) -> None:
        in_process = app.runtime.lane.in_process
        if in_process and not decoded:
            body, decoded = message.payload, True
        super().__init__(message, app=app, body=body, decoded=decoded, **options)
        # Celery would search each request for foreign headers. There are none: choreo makes them, see `run_headers`.
        self._request_dict["headers"] = {}
        if in_process:
            self._request_dict["choreo_commits"] = commits_of(message.channel)
            self._request_dict["choreo_place"] = place_of(message)

    def mark(self, why: str) -> None:
        """Let the task make a dead letter of this run, and no delivery that was made before."""
        super().mark(why)
        event = self.args[0] if self.args else None
        if isinstance(event, EventText):
            event.prepared = None
