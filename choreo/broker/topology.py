"""Exchange, queues and bindings of one service.

::

                        ┌─ order.placed ──> payment.charge_customer      one queue per handler
    choreo.events ──────┼─ order.placed ──> restaurant.confirm_order
    (topic exchange)    └─ order.* ───────> analytics.count

                            payment.dead_letters                         a notice of each dead letter
                            payment                                      ordinary Celery tasks of the service
                            choreo.intake                                events of other programs, if it takes them in
"""

from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING

from kombu import Exchange, Queue, binding

from choreo.broker.cloud_message import INTAKE
from choreo.broker.incoming import UNREADABLE
from choreo.broker.intake import IntakeQueue
from choreo.broker.queue import DeadLetterQueue, HandlerQueue, OnConsume, Park
from choreo.broker.task_queue import TaskQueue
from choreo.events.envelope import Envelope

if TYPE_CHECKING:
    from choreo.declare.subscription import Subscription

#: RabbitMQ's limit of deliveries per message: a backstop. An event that kills its workers becomes a dead letter long
#: before (`Terms.max_deliveries`). But each stop of a worker counts here as a delivery of all that it had prefetched.
DELIVERY_LIMIT = 100

#: The arguments of a handler's queue on RabbitMQ. Other brokers ignore them.
#:
#: RabbitMQ's documentation recommends a policy instead of arguments. But without these settings events are lost, so
#: they must not depend on the configuration of the broker. A policy can still lower the delivery limit. For a queue
#: that exists with other arguments see `choreo.broker.rabbitmq.steady_queue`.
HANDLER_QUEUE = {
    # A quorum queue is replicated in a cluster, writes a message to disk before it confirms it, and counts deliveries.
    "x-queue-type": "quorum",
    # Without a limit RabbitMQ 3.x redelivers for ever, and 4.x drops a message after 20 deliveries.
    "x-delivery-limit": DELIVERY_LIMIT,
    # The default exchange; `Topology` adds the routing key, the name of the service's dead-letter queue.
    "x-dead-letter-exchange": "",
    # By default RabbitMQ publishes a dead letter without waiting for a confirm, and loses it if the target queue is not
    # available at that moment. "at-least-once" (3.10 and later) keeps it until the target queue has confirmed. It
    # requires "reject-publish": a full queue refuses new messages and does not drop its oldest. The queue has no length
    # limit, so it refuses none. If an operator sets one, the publisher gets a nack and raises `PublishError`: as
    # `Publisher.announce` promises, it returns only once every bound queue holds the event.
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}

#: The arguments of the dead-letter queue, and of the intake. RabbitMQ 4's default limit would drop a notice after 20
#: deliveries, and there is no further queue to take it.
LETTERS_QUEUE = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}


class Topology:
    """
    The exchange, the queues and the bindings of one service.

    ``namespace`` begins all their names, so that several platforms can share a broker. ``forward`` is the callback of
    the intake; None if the service takes in no events of other programs.
    """

    def __init__(
        self,
        service: str,
        namespace: str,
        subscriptions: "Iterable[Subscription]",
        park: Park,
        tasks: Callable[[], Container[str]],
        accept: Callable[[], Container[str]],
        handlers: Callable[[], Container[str]],
        returned: Callable[..., int],
        on_consume: OnConsume | None = None,
        forward: Callable[[Envelope], object] | None = None,
    ) -> None:
        self.service = service
        self.namespace = namespace
        self._subscriptions = subscriptions
        self._park = park
        self._tasks = tasks
        self._accept = accept
        self._handlers = handlers
        self._returned = returned
        self._on_consume = on_consume
        self._forward = forward
        self.exchange = Exchange(self.name_of("choreo.events"), type="topic", durable=True)

    def name_of(self, name: str) -> str:
        """The name of a queue or exchange on the broker: ``staging.payment.charge_customer``."""
        return f"{self.namespace}.{name}" if self.namespace else name

    @property
    def dead_letter_queue(self) -> str:
        """The name of the queue of the service's notices."""
        return self.name_of(f"{self.service}.dead_letters")

    @property
    def default_queue(self) -> str:
        """The name of the queue of the service's ordinary tasks."""
        return self.name_of(self.service)

    def queues(self) -> list[Queue]:
        """Every queue of the service. A worker consumes from all of them, unless it is started with ``-Q``."""
        handlers = [self._handler_queue(subscription) for subscription in self._subscriptions]
        letters = DeadLetterQueue(
            self.dead_letter_queue,
            routing_key=self.dead_letter_queue,
            queue_arguments=LETTERS_QUEUE,
            handler=f"{self.service}.dead_letters",
            park=self._park,
            prefix=self.name_of(""),
            handlers=self._handlers,
            foreign=_foreign_types(pattern for known in self._subscriptions for pattern in known.patterns),
        )
        tasks = TaskQueue(
            self.default_queue,
            Exchange(self.default_queue),
            self.default_queue,
            handler=self.service,
            park=self._park,
            tasks=self._tasks,
            accept=self._accept,
            returned=self._returned,
        )
        return [*handlers, letters, tasks, *([self._intake()] if self._forward else [])]

    def patterns(self) -> dict[str, list[str]]:
        """The name of each handler's queue → the patterns that it is bound to."""
        return {self.name_of(handler): patterns for handler, patterns in self.patterns_by_handler().items()}

    def patterns_by_handler(self) -> dict[str, list[str]]:
        """The name of each handler → the patterns that its queue is bound to: also the types of other programs."""
        return {
            subscription.name: [*subscription.patterns, *_foreign_types(subscription.patterns)]
            for subscription in self._subscriptions
        }

    def _intake(self) -> Queue:
        return IntakeQueue(
            self.name_of(INTAKE),
            routing_key=self.name_of(INTAKE),
            queue_arguments=LETTERS_QUEUE,
            handler=self.service,
            park=self._park,
            forward=self._forward,
            raw_type=UNREADABLE,
        )

    def _handler_queue(self, subscription: "Subscription") -> Queue:
        foreign = _foreign_types(subscription.patterns)
        return HandlerQueue(
            self.name_of(subscription.name),
            routing_key=self.name_of(subscription.name),
            bindings=[binding(self.exchange, pattern) for pattern in (*subscription.patterns, *foreign)],
            queue_arguments=HANDLER_QUEUE | {"x-dead-letter-routing-key": self.dead_letter_queue},
            handler=subscription.name,
            park=self._park,
            on_consume=self._on_consume,
            foreign=foreign,
        )


def _foreign_types(patterns: Iterable[str]) -> dict[str, str]:
    # Imported here: a command that only looks at the platform makes no queue, and needs no pydantic.
    from choreo.events.foreign_types import foreign_types

    return foreign_types(patterns)
