"""The presence keeper: tells the register that this worker lives, what it declares, and which queues it consumes."""

import logging
from dataclasses import replace
from typing import Any

from choreo.daemon import Daemon
from choreo.declare.description import ServiceDescription
from choreo.errors import StoreError
from choreo.store.port import Store
from choreo.store.presence import Program

logger = logging.getLogger(__name__)

#: Seconds of silence after which a worker counts as gone.
TTL = 60.0
#: Seconds between two reports.
INTERVAL = 15.0


class PresenceKeeper:
    """
    Reports one worker every `INTERVAL` seconds, in a thread, from `start` to `stop`; and at once after `wake`.

    ``worker`` is Celery's. ``program`` is what does not change while it lives; the first report sets its ``since``. A
    store that is away is logged: the next report makes up for it.
    """

    def __init__(self, worker: Any, store: Store, program: Program, description: ServiceDescription) -> None:
        self._worker, self._store = worker, store
        self._program, self._description = program, description
        self._daemon = Daemon("choreo-presence", self.report, INTERVAL)
        self._is_heard = False

    def start(self) -> None:
        """Report, and start the thread."""
        self.report()
        self._daemon.start()

    def wake(self) -> None:
        """Report at once, in the thread: something has changed."""
        self._daemon.wake()

    def report(self) -> None:
        """Report once. A failure is logged."""
        self._is_heard = False  # until the store has answered: this call may hang when `stop` is called
        try:
            # By the store's clock, and in whole milliseconds, as all times that are compared with it.
            self._program = replace(self._program, since=self._program.since or int(self._store.now() * 1000) / 1000)
            queues, paused = consumed_by(self._worker), paused_in(self._worker)
            now = replace(self._program, queues=queues, paused=paused, concurrency=_concurrency(self._worker))
            self._store.report(self._description.service, now, self._description.to_json(), TTL)
            self._is_heard = True
        except StoreError as error:
            logger.warning("nobody learns that this worker lives until this is mended: %s", error)

    def stop(self) -> None:
        """
        Stop the thread (waiting 5 seconds at most), and report the end of this worker.

        A store that did not answer the last report is not asked: the worker would wait up to 40 seconds for it.
        """
        self._daemon.stop()
        if not self._is_heard:
            return
        try:
            self._store.leave(self._description.service, self._program.name)
        except StoreError as error:
            logger.warning("this worker counts as alive for %g s more: %s", TTL, error)


def consumed_by(worker: Any) -> tuple[str, ...]:
    """
    The names of the queues that a worker consumes: those of `-Q`, without those that `cancel_consumer` named.

    Those of paused handlers count as consumed.
    """
    consumer = getattr(getattr(worker, "consumer", None), "task_consumer", None)
    # Before it is connected: those that it is going to consume.
    queues = worker.app.amqp.queues.consume_from if consumer is None else [queue.name for queue in consumer.queues]
    return tuple(sorted({*queues, *paused_in(worker)}))


def paused_in(worker: Any) -> tuple[str, ...]:
    """The names of the queues that a worker does not consume because their handlers are paused."""
    paused = getattr(getattr(worker, "consumer", None), "paused", None)
    return tuple(sorted(paused.kept)) if paused is not None else ()


def _concurrency(worker: Any) -> int:
    """How many events the worker handles at once, also after `celery control pool_grow`."""
    pool = getattr(worker, "pool", None)
    return int(getattr(pool, "num_processes", None) or worker.concurrency or 1)


def pool_name(pool: type) -> str:
    """The name of a pool, as `--pool` takes it."""
    return pool.__module__.rpartition(".")[2].replace("thread", "threads")
