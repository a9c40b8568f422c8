"""What a service's worker does differently from Celery's when it talks to its broker."""

import logging
from functools import cached_property
from typing import Any

import amqp
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.common import ignore_errors

from choreo.broker.workload import begun_requests, listed, written_job
from choreo.worker.worker_events import Lull

logger = logging.getLogger(__name__)

#: Seconds that RabbitMQ has for any answer. Waiting for messages is not waiting for an answer.
ANSWER_TIMEOUT = 10.0


class ServiceConsumer(Consumer):
    """
    Celery's consumer, with these differences:

    - No native delayed delivery. Celery sets it up wherever it sees a quorum queue: 28 queues and a permanent binding
      ``#.<queue>``, which would also catch events. choreo's delays are in the store.
    - Worker events and replies to remote control do not wait for publisher confirms: nobody would send them again,
      and the event loop would stand still meanwhile.
    - `celery control add_consumer` knows the service's own queues only: any other would be bound to nothing.
    - A broker that does not answer is left and connected to again. Celery waits for ever for the answer to
      "consume", and RabbitMQ gives none while a quorum queue has no leader.
    - A stopping worker returns at once what it has not started.
    - A job that was written to a pool child is not forgotten when the worker stops or loses its connection.
    - Worker events are collected for a moment before they are sent: see `choreo.worker.worker_events`.
    """

    class Blueprint(Consumer.Blueprint):
        default_steps = tuple(
            step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        )

    def connect(self) -> Any:
        connection = super().connect()
        if self.lull:
            self.lull.forget()  # what was set for later may have gone with the last connection
        if isinstance(connection.connection, amqp.Connection):
            connection.connection.transport.sock.settimeout(ANSWER_TIMEOUT)
        return connection

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        options = _UNCONFIRMED | {"at_a_time": self._at_a_time()}
        return self.ensure_connected(self.app.connection_for_read(heartbeat=heartbeat, transport_options=options))

    def connection_for_write(self, url: Any = None, heartbeat: Any = None) -> Any:
        connection = self.app.connection_for_write(url=url, heartbeat=heartbeat, transport_options=_UNCONFIRMED)
        return self.ensure_connected(connection)

    def _at_a_time(self) -> int:
        """How many handlers run at a time at most: should all of it die, so many are to be blamed."""
        if isinstance(self.pool, SoloPool):
            return 1
        worker = self.controller
        return int(getattr(worker, "max_concurrency", None) or worker.concurrency)

    def add_task_queue(self, queue: str, *args: Any, **options: Any) -> None:
        if queue not in self.app.amqp.queues:
            logger.error(
                "add_consumer %s: %s has no such queue, so that nothing is consumed from it. It has %s.",
                queue,
                self.app.service_name,
                ", ".join(sorted(self.app.amqp.queues)),
            )
            return
        super().add_task_queue(queue, *args, **options)

    @cached_property
    def lull(self) -> Lull | None:
        """When collected worker events are sent; None where there is no event loop, and they are sent at once."""
        return Lull(self.hub, self._flush_events) if self.hub else None

    def on_send_event_buffered(self) -> None:
        """Celery's call whenever a worker event was collected; from any thread."""
        if self.lull:
            self.lull.collected()

    def on_close(self) -> None:
        """
        Celery's call when it stops or has lost its connection. It forgets the requests that the pool has not accepted.

        A child begins what is in its pipe all the same. If its parent no longer knew of that, it would give the
        message back, and another worker would begin it as well.
        """
        written = [(request, written_job(request)) for request in listed(state.reserved_requests)]
        super().on_close()
        for request, job in written:
            if job is not None and not job.ready() and job._write_to._is_alive():
                job._cache[job._job] = job
                state.task_reserved(request)

    def stop(self) -> None:
        # Its connection is closed before the dispatcher is.
        ignore_errors(self, self._flush_events)
        reserved = listed(state.reserved_requests)
        super().stop()
        # What was delivered while the consumer was being cancelled is in the second.
        self._return_unstarted({*reserved, *listed(state.reserved_requests)})

    def _return_unstarted(self, reserved: set[Any]) -> None:
        """Give RabbitMQ back what no pool worker begins; it would otherwise wait for what runs to end."""
        for request in reserved.difference(begun_requests()):
            # The Redis transport returns it by itself, without counting it as a failed delivery.
            if not request.acknowledged and isinstance(request.message.channel, amqp.Channel):
                # Should the pool begin it after all, it must not be acknowledged: the inbox sorts out the rest.
                request.acknowledged = True
                request.message.reject_log_error(logger, self.connection_errors, requeue=True)


#: See the second difference above. Other transports take no notice.
_UNCONFIRMED = {"confirm_publish": False}
