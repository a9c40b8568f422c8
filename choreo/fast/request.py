"""A delivery as Celery's worker sees it, in the fast lane."""

from typing import Any

from celery.worker.request import Request

from choreo.fast.channel import commits_of


class HandlerRequest(Request):
    """
    Celery's request, which hands over the decoded message where the pool runs in the worker's own process.

    Celery decodes a message to look at it, and hands the text to the pool, which decodes it once more. A pool in the
    same process also gets the line on which commits can be sent ahead: see `choreo.fast.commits`.
    """

    def __init__(self, message: Any, *, app: Any, body: Any = None, decoded: bool = False, **options: Any) -> None:
        in_process = app.runtime.lane.in_process
        if in_process and not decoded:
            body, decoded = message.payload, True
        super().__init__(message, app=app, body=body, decoded=decoded, **options)
        # Celery would look for foreign headers in each request. The headers of a run are made here: `run_headers`.
        self._request_dict["headers"] = {}
        if in_process:
            self._request_dict["choreo_commits"] = commits_of(message.channel)
