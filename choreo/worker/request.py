"""A delivery as Celery's worker sees it."""

from typing import Any

from celery.worker.request import Request


class HandlerRequest(Request):
    """
    Celery's request, which hands over what it has where the pool runs in its own process.

    Celery decodes a message to look at it, and hands the text to the pool, which decodes it once more. A pool in the
    same process is also told on which line commits can be sent ahead: see `choreo.broker.commits`.
    """

    def __init__(self, message: Any, *, app: Any, body: Any = None, decoded: bool = False, **options: Any) -> None:
        if app.in_process and not decoded:
            body, decoded = message.payload, True
        super().__init__(message, app=app, body=body, decoded=decoded, **options)
        # Celery would look for headers of others in each request; the headers of a run are made here: `run_headers`.
        self._request_dict["headers"] = {}
        if app.in_process:
            self._request_dict["choreo_line"] = getattr(message.channel, "line", None)
