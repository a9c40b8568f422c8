"""The worker program: `celery -A handlers.payment worker` is node ``payment@payment.host``."""

import gc
import logging
from socket import gethostname
from typing import Any

from billiard import pool
from celery.apps.worker import Worker
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import SerializerNotInstalled
from kombu.serialization import prepare_accept_content

from choreo.delivery.sentry import without_pool
from choreo.events.cloud_events import JSON
from choreo.masking import masked
from choreo.worker import coroutines, logs
from choreo.worker import panel as panel  # it changes Celery's remote control commands
from choreo.worker.control import node_name
from choreo.worker.discarded import warn_of_discarded
from choreo.worker.logical_clock import LogicalClock
from choreo.worker.presence import pool_name
from choreo.worker.task import SafeTask

logger = logging.getLogger(__name__)

#: Tenths of a second that a pool child waits at its end until its parent has read its results.
RESULTS_READ = 10


class ServiceWorker(Worker):
    """
    Celery's worker, named after its service. It refuses to start with settings that would break a promise.

    ``-n fast@%h`` is node ``payment.fast@payment.host``: see `choreo.worker.control.node_name`.
    Raises `ImproperlyConfigured` for the eventlet pool, for a time limit in a pool that cannot enforce it (every pool
    but prefork), for ``task_annotations`` or ``worker_deduplicate_successful_tasks`` that would lose events, and for an
    ``accept_content`` without JSON.
    """

    def __init__(self, app: Any = None, hostname: str | None = None, **options: Any) -> None:
        # If the connection broke just before the stop, the parent reads no more results, and each child would wait half
        # a minute for it. A result that is not read is an ack that is not sent: the event comes again, and is done.
        pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = RESULTS_READ
        service = app or self.app
        logs.install(service)
        service.clock = LogicalClock()
        service.runtime.check()
        # Before Celery reads it: its own errors do not name the setting.
        check_content(service.service_name, service.conf.accept_content)
        name = node_name(service.service_name, hostname or f"celery@{gethostname()}")
        super().__init__(app=app, hostname=name, **options)
        in_process = not issubclass(self.pool_cls, PreforkPool)
        if self.app.runtime.lane is not None:
            self.app.runtime.lane.in_process = in_process
            if self.pool_cls is PreforkPool:
                self.app.runtime.lane.use_children()
        self.app.runtime.node = self.hostname
        self.app.runtime.pool_soft_time_limit = self.soft_time_limit
        coroutines.serve(self, in_process=in_process)
        self._check_pool()
        if in_process:
            self._check_limits()
        self._check_tasks()
        self._check_settings()

    def _check_pool(self) -> None:
        if pool_name(self.pool_cls) == "eventlet":
            raise ImproperlyConfigured(
                "choreo does not run on the eventlet pool: eventlet's own authors advise against new uses of it, and "
                "choreo is not tested with it. Run this service with --pool gevent or threads."
            )
        found = [task.name for task in self._own_tasks() if coroutines.is_async(task)]
        if found and pool_name(self.pool_cls) == "gevent":
            raise ImproperlyConfigured(
                f"{found[0]} is `async def`, and asyncio does not run under gevent. Run this service with --pool "
                f"threads, or write the handler as `def`."
            )

    def _own_tasks(self) -> list[SafeTask]:
        return [task for task in self.app.tasks.values() if isinstance(task, SafeTask)]

    def _check_limits(self) -> None:
        """Refuse the time limits that this pool cannot enforce: those of plain functions."""
        plain = [task for task in self._own_tasks() if not coroutines.is_async(task)]
        # The task of the notices is always there, and need not be limited.
        is_any_plain = any(hasattr(task, "subscription") for task in plain)
        limits = {"task_time_limit": self.time_limit, "task_soft_time_limit": self.soft_time_limit}
        if not is_any_plain:
            limits = {}
        for task in plain:
            limits |= {f"time_limit of {task.name}": getattr(task, "time_limit", None)}
            limits |= {f"soft_time_limit of {task.name}": getattr(task, "soft_time_limit", None)}
        for setting, seconds in limits.items():
            if seconds:
                raise ImproperlyConfigured(
                    f"{setting} = {seconds}: the {pool_name(self.pool_cls)} pool cannot end a handler that is a plain "
                    f"function, so this would do nothing. Run this service with --pool prefork, or without the limit, "
                    f"or write the handler as `async def`."
                )

    def _check_tasks(self) -> None:
        for task in self._own_tasks():
            task.check()

    def _check_settings(self) -> None:
        if not self.app.conf.worker_detect_quorum_queues and _is_rabbitmq(self.app.connection_for_read()):
            raise ImproperlyConfigured(
                "worker_detect_quorum_queues = False: the handlers' queues are quorum queues, and RabbitMQ refuses the "
                "prefetch that Celery then asks for. Leave the setting out."
            )
        if self.app.conf.worker_deduplicate_successful_tasks and self.app.backend.persistent:
            raise ImproperlyConfigured(
                "worker_deduplicate_successful_tasks would drop a redelivered event whose earlier run had to wait, and "
                "choreo recognises repeated events by itself. Leave it out, and run ordinary tasks that need it in a "
                "Celery app of their own."
            )
        if (priority := self.app.conf.task_queue_max_priority) is not None:
            logger.warning(
                "task_queue_max_priority = %s is for queues of ordinary tasks. A handler's queue has no priorities: on "
                "RabbitMQ it is a quorum queue, and events come in the order of their arrival.",
                priority,
            )

    def stats(self) -> Any:
        """Celery's statistics, without passwords: the broker's are among its options and alternative URLs."""
        return masked(super().stats())

    def emit_banner(self) -> None:
        """Print Celery's banner, unless the log is JSON: a program reads that."""
        if not logs.is_json(self.app):
            super().emit_banner()

    def on_start(self) -> None:
        """Start as Celery does, then exempt all objects that exist now from garbage collection."""
        super().on_start()
        without_pool()
        warn_of_discarded()
        # They stay until the end, also in the pool's children. Searching them for garbage takes a twentieth of a second
        # each time, in which no event is handled.
        gc.collect()
        gc.freeze()


def _is_rabbitmq(connection: Any) -> bool:
    """True if a kombu connection leads to RabbitMQ. It need not be open."""
    return bool(connection.transport.driver_type == "amqp")


def check_content(service: str, accepted: Any) -> None:
    """Raise `ImproperlyConfigured` if ``accept_content`` names no known content type, or not that of events."""
    try:
        types = prepare_accept_content([accepted] if isinstance(accepted, str) else accepted)
    except (SerializerNotInstalled, TypeError) as error:
        raise ImproperlyConfigured(
            f'accept_content = {accepted!r}: {error}. It is a list of serializers, such as ["json"].'
        ) from error
    if types is not None and JSON in types and not isinstance(accepted, str):
        return
    signed = (
        " Celery's signatures (setup_security) protect ordinary tasks only: run these in a Celery app of their own."
    )
    raise ImproperlyConfigured(
        f"accept_content = {accepted!r}: the events of choreo are JSON, so {service} could read none of them. Leave it "
        f'out, or add "json".{signed if "auth" in str(accepted) else ""}'
    )
