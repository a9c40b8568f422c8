"""The consumer of a service's worker: Celery's, with some differences in how it uses the broker."""

import logging
from functools import cached_property
from typing import Any

import amqp
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.common import ignore_errors

from choreo.broker.redis.consuming import is_choreos
from choreo.broker.workload import listed, started_requests, written_job
from choreo.errors import DeclarationError
from choreo.worker.beginnings import count_beginnings
from choreo.worker.countdowns import CountdownRoom
from choreo.worker.pool import describe_loss, replace_killed, watch_again
from choreo.worker.rates import Rates
from choreo.worker.unconsumed import declare_unconsumed
from choreo.worker.unrunnable import guard_traces, guarded
from choreo.worker.worker_events import Lull

logger = logging.getLogger(__name__)

#: Seconds after which RabbitMQ must have answered a request. (Waiting for messages is no request.)
ANSWER_TIMEOUT = 10.0


class ServiceConsumer(Consumer):
    """
    Celery's consumer, with these differences:

    - No native delayed delivery. Celery sets it up wherever it sees a quorum queue: 28 queues and a permanent binding
      ``#.<queue>``, which would also catch events. choreo's delays are in the store.
    - Worker events and replies to remote control do not wait for publisher confirms: no code sends them again, and
      waiting would stop the event loop.
    - It also declares the queues of the service's handlers that it does not consume: see `choreo.worker.unconsumed`.
    - `celery control add_consumer` accepts the service's own queues only: any other would be bound to nothing.
    - If the broker does not answer within `ANSWER_TIMEOUT`, the consumer connects again. Celery waits for ever for the
      answer to "consume", and RabbitMQ gives none while a quorum queue has no leader.
    - A stopping worker gives back at once the deliveries that it has not begun.
    - A job that was written to a pool child is not forgotten when the worker stops or loses its connection.
    - Worker events are collected for a moment before they are sent: see `choreo.worker.worker_events`.
    - A message that Celery cannot run, and would end the worker, becomes a dead letter: see `choreo.worker.unrunnable`.
    - A handler with a rate limit does not use up the prefetch of the others, and countdowns not that of their queue:
      see `choreo.worker.rates` and `choreo.worker.countdowns`.
    - On RabbitMQ, the return of a call of an ordinary task counts only if the call had begun: see
      `choreo.worker.beginnings`.
    - A changed rate limit also holds for the deliveries that wait already.
    - A child of the prefork pool that is killed while the worker starts is replaced. If the worker must end because of
      its pool, or of a setting, it says so in one line.
    """

    class Blueprint(Consumer.Blueprint):
        """Celery's steps, without native delayed delivery."""

        default_steps = tuple(
            step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        )

    def start(self) -> None:
        """Run as Celery does. Raises `WorkerShutdown`, after one line in the log, if that cannot go on."""
        try:
            super().start()
        except DeclarationError as error:
            logger.critical("%s ends: %s", self.hostname, error)
        except Exception as error:
            loss = describe_loss(error)
            if loss is None:
                raise
            logger.critical("%s ends, and must be started again: %s", self.hostname, loss)
            logger.debug("the error of the pool", exc_info=error)
        else:
            return
        raise WorkerShutdown(EX_FAILURE)

    def loop_args(self) -> Any:
        """Celery calls this once per connection, when the event loop is about to begin."""
        watch_again(self.pool)
        return super().loop_args()

    def on_ready(self) -> None:
        """Called before the event loop begins, once per connection."""
        declare_unconsumed(self.app, self.connection)
        replace_killed(self.pool)
        CountdownRoom.make(self)
        super().on_ready()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Connect again as Celery does. Logs a refusal of RabbitMQ as one: Celery calls it a lost connection."""
        if isinstance(exc, amqp.ChannelError):
            logger.error("RabbitMQ refuses a request of this worker, which asks again: %s", exc)
        super().on_connection_error_after_connected(exc)

    # -- rate limits ------------------------------------------------------------------------------------------------

    @cached_property
    def rates(self) -> Rates:
        """The deliveries that wait for the rate of their handler."""
        return Rates(self.task_buckets)

    def reset_rate_limits(self) -> None:
        """Read the rate limits again. Deliveries that wait already follow the new limit; Celery keeps the old one."""
        waiting = list(self.rates.take_all())
        super().reset_rate_limits()
        self.rates.changed()
        self._tell_transport()
        for name, (request, tokens) in waiting:
            if bucket := self.task_buckets[name]:
                self._limit_task(request, bucket, tokens)
            else:
                self._limit_move_to_pool(request)

    def update_strategies(self) -> None:
        """Make the strategies, once per connection."""
        if isinstance(self.connection.connection, amqp.Connection):
            count_beginnings(self.app)
        super().update_strategies()
        self._tell_transport()

    def _tell_transport(self) -> None:
        """Tell choreo's Redis transport which deliveries wait for a rate. Most workers limit none: it need not ask."""
        # Celery reads the rate limits for the first time before it has the attribute.
        connection = getattr(self, "connection", None)
        if connection is not None and is_choreos(connection):
            qos = connection.default_channel.qos
            qos.held = self.rates.held if self.rates.are_limited else None
            qos.held_for = self.rates.held_for

    # -- connections ------------------------------------------------------------------------------------------------

    def connect(self) -> Any:
        """Connect as Celery does, with `ANSWER_TIMEOUT` for the answers of RabbitMQ."""
        connection = super().connect()
        if self.lull:
            self.lull.forget()  # its timer may have gone with the last connection
        if isinstance(connection.connection, amqp.Connection):
            connection.connection.transport.sock.settimeout(ANSWER_TIMEOUT)
        return connection

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Celery's, without publisher confirms. It tells choreo's Redis transport how many handlers run at a time."""
        options = _UNCONFIRMED | {"at_a_time": self._at_a_time()}
        return self.ensure_connected(self.app.connection_for_read(heartbeat=heartbeat, transport_options=options))

    def connection_for_write(self, url: Any = None, heartbeat: Any = None) -> Any:
        """Celery's, without publisher confirms."""
        connection = self.app.connection_for_write(url=url, heartbeat=heartbeat, transport_options=_UNCONFIRMED)
        return self.ensure_connected(connection)

    def _at_a_time(self) -> int:
        """The most handlers that run at a time. If the worker dies, one of so many events has killed it."""
        if isinstance(self.pool, SoloPool):
            return 1
        worker = self.controller
        return int(getattr(worker, "max_concurrency", None) or worker.concurrency)

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        """Celery's function for each message, and a guard around it and around the runs in the worker's own process."""
        guard_traces(self.app)
        return guarded(self, super().create_task_handler(*args, **options))

    @cached_property
    def lull(self) -> Lull | None:
        """Decides when collected worker events are sent; None without an event loop: they are sent at once."""
        return Lull(self.hub, self._flush_events) if self.hub else None

    def on_send_event_buffered(self) -> None:
        """Celery calls this, from any thread, whenever a worker event was collected: schedule its sending."""
        if self.lull:
            self.lull.collected()

    def on_close(self) -> None:
        """
        Close as Celery does if the worker stops or has lost its connection, but keep the jobs in the children's pipes.

        Celery forgets the requests that the pool has not accepted. A child begins the job in its pipe even so. If its
        parent had forgotten that job, it would give the message back, and another worker would begin it as well.
        """
        written = [(request, written_job(request)) for request in listed(state.reserved_requests)]
        super().on_close()
        for request, job in written:
            if job is not None and not job.ready() and job._write_to._is_alive():
                job._cache[job._job] = job
                state.task_reserved(request)

    def stop(self) -> None:
        """Stop as Celery does, but send the collected worker events first, and give back unbegun deliveries."""
        # Celery closes the connection before it closes the dispatcher.
        ignore_errors(self, self._flush_events)
        reserved = listed(state.reserved_requests)
        super().stop()
        # Some deliveries may have come while the consumer was being cancelled.
        self._return_unstarted({*reserved, *listed(state.reserved_requests)})

    def _return_unstarted(self, reserved: set[Any]) -> None:
        """Give RabbitMQ the deliveries back that the pool does not begin. Else they wait for the running handlers."""
        for request in reserved.difference(started_requests()):
            # choreo's Redis transport gives them back by itself, without counting a failed delivery.
            if not request.acknowledged and isinstance(request.message.channel, amqp.Channel):
                # If the pool begins it after all, it must not be acked: the inbox recognises the second delivery.
                request.acknowledged = True
                request.message.reject_log_error(logger, self.connection_errors, requeue=True)


#: See the second difference above. Only the transport of RabbitMQ reads it.
_UNCONFIRMED = {"confirm_publish": False}
