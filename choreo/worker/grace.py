"""The grace step: a warm shutdown ends in time.

On SIGTERM a worker finishes the handlers that it has begun, and gives the rest back. Celery waits for them without a
limit, until the service manager (Kubernetes, systemd, Docker) kills all its processes. This step acts before that: it
gives the events whose handlers still run back to the broker, and ends the worker as ``kill -9`` would, which choreo
survives. These events do not count as failed attempts, nor as attempts that never finished; see `max_deliveries`.

Celery's own soft and cold shutdown cannot do this. The soft one always waits for its full time; the cold one raises
`SystemExit` in handlers, and can hang during a warm shutdown.
"""

import logging
import os
import signal
import threading
from contextlib import suppress
from typing import Any

from billiard import active_children
from celery import bootsteps
from celery.platforms import EX_FAILURE
from celery.signals import worker_shutting_down
from celery.worker import state

from choreo.broker.workload import listed
from choreo.worker.handler import HandlerTask, read

logger = logging.getLogger(__name__)

#: The most seconds for giving events back to the broker and closing the connection.
CLOSING = 2.0


class GraceStep(bootsteps.StartStopStep):
    """Ends a warm shutdown after ``choreo_shutdown_timeout`` seconds; None means never."""

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._worker = worker

    def start(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Wait for the signal to stop. The time runs from then on."""
        worker_shutting_down.connect(self._begin, weak=False)

    def _begin(self, how: str = "", **_: Any) -> None:
        seconds = self._worker.app.conf.get("choreo_shutdown_timeout")
        if how == "Warm" and seconds is not None:
            timer = threading.Timer(float(seconds), self._enough, [float(seconds)])
            timer.daemon = True
            timer.start()

    def _enough(self, seconds: float) -> None:
        lane = self._worker.app.runtime.lane
        if lane is not None:
            lane.look()
        running = ", ".join(sorted(f"{request.name}({request.argsrepr})" for request in listed(state.active_requests)))
        logger.warning("ending %s, not done %g s after the signal to stop", running or "the worker", seconds)
        for child in active_children():
            with suppress(OSError):
                os.kill(child.pid, signal.SIGKILL)
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(CLOSING)
        logging.shutdown()
        os._exit(EX_FAILURE)

    def _close(self) -> None:
        """Uncount the beginnings of the running handlers, and close the connection: every delivery is given back."""
        for request in listed(state.active_requests):
            # If this fails, the beginning stays counted, and the event may be parked one delivery too early.
            with suppress(Exception):
                self._forgive(request)
        connection = getattr(self._worker.consumer, "connection", None)
        if connection is not None:
            connection.close()

    def _forgive(self, request: Any) -> None:
        app = self._worker.app
        task = app.tasks[request.name]
        if isinstance(task, HandlerTask):
            event = request.args[0]
            app.runtime.store.forgive(task.delivery(event, read(event)).claim)
