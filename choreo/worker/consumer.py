"""The consumer of a service's worker: Celery's, with some differences in how it uses the broker."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import amqp
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.common import ignore_errors

from choreo.broker.incoming import UNCOUNTED
from choreo.broker.redis.consuming import is_choreos
from choreo.broker.workload import listed, started_requests, written_job
from choreo.cached import cached_property
from choreo.errors import DeclarationError
from choreo.worker.batches import Batches, largest_of
from choreo.worker.beginnings import count_beginnings
from choreo.worker.cancelled import consume_again
from choreo.worker.coroutines import is_async, places_of
from choreo.worker.countdowns import CountdownRoom
from choreo.worker.paused_queues import PausedQueues
from choreo.worker.pool import describe_loss, replace_killed, watch_again
from choreo.worker.prefetch import Prefetch
from choreo.worker.rates import Rates
from choreo.worker.slots import SlotBucket, Slots
from choreo.worker.unconsumed import declare_unconsumed
from choreo.worker.unrunnable import guard_traces, guarded
from choreo.worker.worker_events import Lull

logger = logging.getLogger(__name__)

#: Seconds after which RabbitMQ must have answered a request. (Waiting for messages is no request.)
ANSWER_TIMEOUT = 10.0
#: The largest prefetch that a batch may ask for. RabbitMQ's number has 16 bits.
MOST_PREFETCHED = 65_535


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
    - Deliveries to batch handlers are collected: see `choreo.worker.batches`.
    - A queue whose consumer RabbitMQ has cancelled is consumed again, on the same connection: see
      `choreo.worker.cancelled`.
    - A quick handler's queue on RabbitMQ gets a larger prefetch: see `choreo.worker.prefetch`.
    - The queue of a paused handler is not consumed: see `choreo.worker.paused_queues`.
    - Deliveries to a handler with a concurrency wait for a slot: see `choreo.worker.slots`.
    - A changed rate limit also holds for the deliveries that wait already.
    - A child of the prefork pool that is killed while the worker starts is replaced. If the worker must end because of
      its pool, or of a setting, it says so in one line.
    """

    initial_prefetch_count: int

    def __init__(self, on_task_request: Any, *args: Any, **options: Any) -> None:
        super().__init__(on_task_request, *args, **options)
        #: Collects the deliveries to batch handlers.
        self.batches = Batches(self, on_task_request)
        self._largest = largest_of(self.app.runtime.subscriptions)
        if self._largest:
            self.on_task_request = self.batches
            if self.initial_prefetch_count:
                needed = self._needed_prefetch(self._at_a_time())
                self.initial_prefetch_count = max(self.initial_prefetch_count, needed)

    @property
    def max_prefetch_count(self) -> int:
        """Celery's, or as many as all batches that run at a time have, and one that is being collected."""
        places = int(self.pool.num_processes)
        return max(places * int(self.prefetch_multiplier), self._needed_prefetch(places))

    def _needed_prefetch(self, places: int) -> int:
        """The prefetch with which a batch can be full while as many run as the pool has places; 0 without batches."""
        return min((places + 1) * self._largest, MOST_PREFETCHED)

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
        self.paused.connect()
        return super().loop_args()

    def on_ready(self) -> None:
        """Called before the event loop begins, once per connection."""
        declare_unconsumed(self.app, self.connection)
        replace_killed(self.pool)
        CountdownRoom.make(self)
        consume_again(self)
        Prefetch.make(self)
        self.paused.follow()
        self.controller.clock.start()
        super().on_ready()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Connect again as Celery does. Logs a refusal of RabbitMQ as one: Celery calls it a lost connection."""
        if isinstance(exc, amqp.ChannelError):
            logger.error("RabbitMQ refuses a request of this worker, which asks again: %s", exc)
        super().on_connection_error_after_connected(exc)

    # -- pauses -----------------------------------------------------------------------------------------------------

    @cached_property
    def paused(self) -> PausedQueues:
        """The queues of paused handlers."""
        return PausedQueues(self)

    def add_task_queue(self, queue: str, *args: Any, **options: Any) -> None:
        """Consume a queue, as `celery control add_consumer` asks; but not while its handler is paused."""
        if self.paused.add(queue):
            self.app.amqp.queues.select_add(self.app.amqp.queues[queue])
        else:
            super().add_task_queue(queue, *args, **options)

    def cancel_task_queue(self, queue: str) -> None:
        """Consume a queue no more, as `celery control cancel_consumer` asks."""
        self.paused.cancelled(queue)
        super().cancel_task_queue(queue)

    # -- rate limits ------------------------------------------------------------------------------------------------

    @cached_property
    def rates(self) -> Rates:
        """The deliveries that wait for the rate of their handler."""
        return Rates(self.task_buckets)

    @cached_property
    def slots(self) -> Slots:
        """The slots of handlers with a concurrency."""
        return Slots(self)

    @cached_property
    def ignores_rates(self) -> bool:
        """True if the worker limits no rate: with ``worker_disable_rate_limits``."""
        return bool(self.disable_rate_limits)

    def bucket_for_task(self, type: Any) -> Any:  # noqa: A002 - Celery's name
        """The bucket in which deliveries to a task wait for its rate, or for a slot of its handler; None without."""
        rate = None if self.ignores_rates else super().bucket_for_task(type)
        bucket = self.slots.bucket_for(type, rate)
        if isinstance(bucket, SlotBucket):
            self.disable_rate_limits = False  # else Celery looks at no bucket
        return bucket

    def _limit_task(self, request: Any, bucket: Any, tokens: int) -> None:
        if not isinstance(bucket, SlotBucket):
            super()._limit_task(request, bucket, tokens)
            return
        bucket.add((request, tokens))
        self.slots.serve_soon(bucket)

    def _schedule_bucket_request(self, bucket: Any) -> None:
        if isinstance(bucket, SlotBucket):
            self.slots.serve(bucket)
        else:
            super()._schedule_bucket_request(bucket)

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
            qos.held = self._held if self.rates.are_limited or self._largest else None
            qos.held_for = lambda: min(self.rates.held_for(), self.batches.held_for())
            queue_of = self.app.runtime.queue_of
            sizes = {one.name: one.batch.size for one in self.app.runtime.subscriptions if one.batch is not None}
            qos.at_once = {queue_of(name): size for name, size in sizes.items()}

    def _held(self) -> Mapping[str, int]:
        """Queue → how many of its deliveries wait for a rate, or in a batch that is not full."""
        return Counter(self.rates.held()) + Counter(self.batches.held()) if self._largest else self.rates.held()

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
        if isinstance(self.pool, SoloPool) and not any(map(is_async, self.app.tasks.values())):
            return 1
        return places_of(self)

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
        self.batches.forget()
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
        self.batches.forget()
        reserved = listed(state.reserved_requests)
        super().stop()
        # Some deliveries may have come while the consumer was being cancelled.
        self._return_unstarted({*reserved, *listed(state.reserved_requests)})

    def _return_unstarted(self, reserved: set[Any]) -> None:
        """Give RabbitMQ the deliveries back that the pool does not begin. Else they wait for the running handlers."""
        # choreo's Redis transport gives them back by itself, without counting a failed delivery.
        back = [
            request
            for request in reserved.difference(started_requests())
            if not request.acknowledged and isinstance(request.message.channel, amqp.Channel)
        ]
        if back and self.app.runtime.lane is not None:
            self.app.runtime.lane.release(back)
        for request in back:
            # If the pool begins it after all, it must not be acked: the inbox recognises the second delivery.
            request.acknowledged = True
            request.message.reject_log_error(logger, self.connection_errors, requeue=UNCOUNTED)


#: See the second difference above. Only the transport of RabbitMQ reads it.
_UNCONFIRMED = {"confirm_publish": False}
