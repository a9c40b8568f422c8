"""The parts of choreo that start and stop with a Celery worker."""

import os
from typing import Any

from celery import bootsteps

from choreo.broker.bindings import Bindings
from choreo.delivery.clock import Clock
from choreo.worker.bindings import BindingKeeper
from choreo.worker.grace import GraceStep


class ClockStep(bootsteps.StartStopStep):
    """Starts the clock after the worker's pool, and stops it before the pool."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.clock: Clock | None = None

    def start(self, worker: Any) -> None:
        """Register the handlers and joins in the store, and start the clock. Raises `StoreError`."""
        runtime = worker.app.runtime
        runtime.introduce()
        self.clock = Clock(runtime)
        self.clock.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Stop the clock."""
        if self.clock is not None:
            self.clock.stop()

    terminate = stop


class BindingsStep(bootsteps.StartStopStep):
    """Reports this worker's bindings before it binds anything, and removes stale bindings while it runs."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._keeper: BindingKeeper | None = None

    def start(self, worker: Any) -> None:
        """Report once, then start the keeper."""
        runtime = worker.app.runtime
        self._keeper = BindingKeeper(
            runtime.service_name,
            f"{worker.hostname}/{os.getpid()}",
            runtime.topology.patterns(),
            runtime.store,
            Bindings(worker.app.connection_for_write, runtime.topology.exchange),
        )
        self._keeper.look()
        self._keeper.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Stop the keeper, which reports that this worker is gone."""
        if self._keeper is not None:
            self._keeper.stop()

    terminate = stop


#: The steps of every service's worker.
STEPS = (ClockStep, BindingsStep, GraceStep)
