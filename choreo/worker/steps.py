"""The parts of choreo that start and stop with a Celery worker."""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from typing import Any

from celery import bootsteps
from celery.worker import state

from choreo.broker.bindings import Bindings
from choreo.delivery.clock import Clock
from choreo.errors import StoreError
from choreo.worker.bindings import BindingKeeper
from choreo.worker.fair_share import share_fairly
from choreo.worker.namesakes import program_of, warn_of_namesakes
from choreo.worker.outage import CHECK_SECONDS
from choreo.worker.pauses import PauseKeeper, stand_by
from choreo.worker.presence import PresenceKeeper, pool_name
from choreo.worker.probes import Prober

logger = logging.getLogger(__name__)

#: Seconds between two tries of a starting worker to reach the store; the last one repeats.
PAUSE_SECONDS = (1.0, 2.0, 4.0, 8.0)


class ClockStep(bootsteps.StartStopStep):
    """Makes the worker's clock, which the consumer starts, and stops it before the pool."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        #: The worker's own attribute: its consumer starts the clock.
        worker.clock = None

    def start(self, worker: Any) -> None:
        """
        Register the handlers and joins in the store, and make the clock.

        It is started once the queues of this worker exist: a delayed event that left before would not reach them.

        Waits for the store if it is away, as Celery waits for the broker. Raises `StoreError` if the store is there and
        refuses, or the setting ``broker_connection_retry_on_startup`` is False, and `WorkerShutdown` if the worker is
        told to stop.
        """
        runtime = worker.app.runtime
        _with_store(runtime.introduce, waits=worker.app.conf.broker_connection_retry_on_startup)
        worker.clock = Clock(runtime)

    def stop(self, worker: Any) -> None:
        """Stop the clock."""
        if worker.clock is not None:
            worker.clock.stop()

    terminate = stop


class FairShareStep(bootsteps.StartStopStep):
    """Gives each handler its fair share of the pool."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        """Change the order in which the pool begins what waits, before anything does."""
        share_fairly(worker)


class CoroutinesStep(bootsteps.StartStopStep):
    """Waits for the coroutines in flight when the worker stops: after its consumer, and before its pool."""

    requires = ("celery.worker.components:Pool",)

    def stop(self, worker: Any) -> None:
        """Begin no more, and wait. `GraceStep` ends the wait after its time."""
        lane = worker.app.runtime.lane
        if lane is not None:
            lane.coroutines.drain()

    def terminate(self, worker: Any) -> None:
        """Do not wait."""


class PausesStep(bootsteps.StartStopStep):
    """Looks at the pauses of the service's handlers before the worker consumes anything, and while it runs."""

    requires = (ClockStep,)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        #: The worker's own attribute: its consumer reads the pauses, and a remote control command wakes the keeper.
        worker.pauses = None
        # Set before the pool forks its children: they stand by with what they inherit.
        worker.app.runtime.stand_by = partial(stand_by, worker)

    def start(self, worker: Any) -> None:
        """Look for the first time, then start the keeper. Waits for the store as `ClockStep` does."""
        runtime = worker.app.runtime

        def follow() -> None:
            if getattr(worker, "consumer", None) is not None:
                worker.consumer.call_soon(worker.consumer.paused.follow)

        keeper = PauseKeeper(runtime.store, runtime.registered_names(), runtime.queue_of, _name_of(worker), follow)
        keeper.on_look.append(Prober(worker).look)
        _with_store(keeper.start, waits=worker.app.conf.broker_connection_retry_on_startup)
        worker.pauses = keeper

    def stop(self, worker: Any) -> None:
        """Stop the keeper."""
        if worker.pauses is not None:
            worker.pauses.stop()

    terminate = stop


class BindingsStep(bootsteps.StartStopStep):
    """Reports this worker's bindings before it binds anything, and removes stale bindings while it runs."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._keeper: BindingKeeper | None = None

    def start(self, worker: Any) -> None:
        """Look for namesakes, report once, then start the keeper."""
        runtime = worker.app.runtime
        patterns = runtime.topology.patterns()
        name = _name_of(worker)
        declared = [(queue, pattern) for queue in patterns for pattern in patterns[queue]]
        warn_of_namesakes(name, declared, runtime.describe(), runtime.store)
        self._keeper = BindingKeeper(
            runtime.service_name,
            name,
            patterns,
            runtime.store,
            Bindings(worker.app.connection_for_write, runtime.topology.exchange),
            runtime.undeclared,
        )
        self._keeper.look()
        self._keeper.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Stop the keeper, which reports that this worker is gone."""
        if self._keeper is not None:
            self._keeper.stop()

    terminate = stop


class PresenceStep(bootsteps.StartStopStep):
    """Tells the register of this worker, from its start to its end."""

    requires = (ClockStep,)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        #: The worker's own attribute: a remote control command wakes the keeper.
        worker.presence = None

    def start(self, worker: Any) -> None:
        """Report once, then start the keeper."""
        runtime = worker.app.runtime
        description = runtime.describe()
        about = {"pool": pool_name(worker.pool_cls), "digest": description.digest, "since": 0.0}
        program = runtime.program(worker.hostname, name=_name_of(worker), **about)
        worker.presence = PresenceKeeper(worker, runtime.store, program, description)
        worker.presence.start()

    def stop(self, worker: Any) -> None:
        """Stop the keeper, which reports that this worker is gone."""
        if worker.presence is not None:
            worker.presence.stop()

    terminate = stop


def _name_of(worker: Any) -> str:
    """The name of this process in the register. No other has it."""
    return f"{worker.hostname}/{os.getpid()} {program_of(worker.app.runtime.subscriptions)}".rstrip()


def _with_store(call: Callable[[], object], *, waits: bool) -> None:
    """Call, and again while the store is away. See `ClockStep.start`."""
    for pause in chain(PAUSE_SECONDS, repeat(PAUSE_SECONDS[-1])):
        try:
            call()
            return
        except StoreError as error:
            if not (waits and error.is_outage):
                raise
            logger.error("%s; this worker begins once the store is back, and asks again in %g s", error, pause)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            state.maybe_shutdown()
            time.sleep(min(pause, CHECK_SECONDS))
