"""A stop that ends in time.

On SIGTERM a worker finishes what it has begun and returns the rest. Celery waits for that without a limit, until
whoever sent the signal loses patience and kills everything. This step is a little earlier: it gives back to the broker
what still runs, and ends the worker as ``kill -9`` would, which everything here is built to survive. Nothing counts
as a failed attempt, nor as a beginning without an end, of which there may not be many.

Celery's own soft and cold shutdown do not do: the former always waits for its full time, the latter raises
`SystemExit` in handlers, and can hang when a warm shutdown is under way.
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

#: Seconds from SIGTERM. Kubernetes kills after 30, systemd after 90, Docker after 10.
SHUTDOWN_TIMEOUT = 25.0
#: Seconds for saying goodbye to the broker.
CLOSING = 2.0


class GraceStep(bootsteps.StartStopStep):
    """Ends a warm shutdown after ``choreo_shutdown_timeout`` seconds; None means never."""

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._worker = worker

    def start(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        worker_shutting_down.connect(self._begin, weak=False)

    def _begin(self, how: str = "", **_: Any) -> None:
        seconds = self._worker.app.conf.get("choreo_shutdown_timeout")
        if how == "Warm" and seconds is not None:
            timer = threading.Timer(float(seconds), self._enough, [float(seconds)])
            timer.daemon = True
            timer.start()

    def _enough(self, seconds: float) -> None:
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
        """Whatever is not acknowledged returns to its queue, and was not begun in vain too often."""
        for request in listed(state.active_requests):
            # What cannot be forgiven counts: it then is parked a little sooner than it deserves.
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
