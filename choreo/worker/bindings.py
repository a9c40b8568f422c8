"""Bindings belong to declarations: what no worker of a service declares any more is unbound.

Otherwise a handler that once listened to ``order.*`` would be sent those events for ever.

Old and new versions of a service run side by side during a deployment. Hence a worker does not go by its own code
alone: each says in the store what it declares, for as long as it lives, and a binding is stale when no live worker
declares it. It goes when the last old worker has stopped, or has been silent for `TTL` seconds. In the meantime the
queue gets what either version listens to.

A queue is never deleted: what waits in it may be wanted. Whose handler is gone, is said.
"""

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from choreo.broker.bindings import Bindings
from choreo.errors import StoreError
from choreo.store import Binding

if TYPE_CHECKING:
    from choreo.service import Service

logger = logging.getLogger(__name__)

#: Seconds of silence after which a worker's declarations no longer count.
TTL = 60.0
#: Seconds between two looks.
INTERVAL = 15.0


class BindingKeeper(threading.Thread):
    """The thread of a worker that says what it declares, and removes what nobody declares."""

    def __init__(self, app: "Service", worker: str) -> None:
        super().__init__(name="choreo-bindings", daemon=True)
        self._app = app
        self._worker = worker
        self._declared: list[Binding] = [
            (queue, pattern) for queue, patterns in app.topology.patterns().items() for pattern in patterns
        ]
        self._bindings = Bindings(app.connection_for_write, app.topology.exchange)
        self._reported: set[str] = set()
        self._began = False
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self.look()

    def look(self) -> None:
        """One look, whose failure only means that it is repeated later."""
        try:
            self._look()
        except StoreError as error:
            logger.warning("stale bindings stay until this is mended: %s", error)
        except Exception as error:  # brokers' clients raise dozens of kinds
            logger.warning("stale bindings stay, since the broker did not remove them: %r", error)

    def _look(self) -> None:
        service = self._app.service_name
        answer = self._app.store.declare(service, self._worker, self._declared, TTL)
        if self._began:
            # Somebody may have removed what this worker declares: while it was silent for too long, or just before it
            # said so. Whoever removed it makes it again, unless the store or a kill comes in between.
            self._bindings.ensure(self._declared)
        self._began = True
        if answer.stale:
            self._bindings.remove(answer.stale)
            for queue, pattern in answer.stale:
                logger.warning("unbound %s from %s, since no worker declares it any more", queue, pattern)
            answer = self._app.store.declare(service, self._worker, self._declared, TTL, removed=answer.stale)
            if answer.again:
                self._bindings.make(answer.again)
        self._report(set(answer.orphans) - self._reported)

    def _report(self, orphans: set[str]) -> None:
        if not orphans:
            return
        waiting = self._bindings.waiting(sorted(orphans))
        for queue, count in waiting.items():
            logger.warning(
                "no worker declares the handler of queue %s any more: it gets no more events, and nobody reads the %d "
                "message(s) in it. Declare the handler again (name=... if it was renamed), or delete the queue.",
                queue,
                count,
            )
        for queue in orphans - waiting.keys():
            self._app.store.forget_queue(self._app.service_name, queue)
        self._reported |= waiting.keys()

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=5)
        self.retire()
        self._bindings.close()

    def retire(self) -> None:
        """Say that this worker declares nothing any more."""
        try:
            self._app.store.declare(self._app.service_name, self._worker, (), 0)
        except StoreError as error:
            logger.warning("this worker counts as alive for %g s more: %s", TTL, error)


class BindingsStep(bootsteps.StartStopStep):
    """Says what this worker declares before it binds anything, and removes what is stale."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._keeper: BindingKeeper | None = None

    def start(self, worker: Any) -> None:
        self._keeper = BindingKeeper(worker.app, f"{worker.hostname}/{os.getpid()}")
        self._keeper.look()
        self._keeper.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        if self._keeper is not None:
            self._keeper.stop()

    terminate = stop
