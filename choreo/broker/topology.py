"""Exchange, queues and bindings of one service.

::

                        ┌─ order.placed ──> payment.charge_customer      one queue per handler
    choreo.events ──────┼─ order.placed ──> restaurant.confirm_order
    (topic exchange)    └─ order.* ───────> analytics.count

                            payment.dead_letters                         told of each dead letter
                            payment                                      ordinary Celery tasks of the service
"""

from collections.abc import Callable, Container, Iterable

from kombu import Exchange, Queue, binding

from choreo.broker.queue import DeadLetterQueue, HandlerQueue, OnConsume, Park
from choreo.broker.task_queue import TaskQueue
from choreo.declare.subscription import Subscription

#: A backstop: the store parks what kills workers long before (`Terms.max_deliveries`), but each stop of a worker
#: counts here too for what it had prefetched.
DELIVERY_LIMIT = 100

#: How RabbitMQ makes a handler's queue. Other brokers take no notice.
#:
#: They are arguments and not a policy, which is what RabbitMQ's documentation prefers, because without them an event
#: is lost: nobody should have to configure the broker for that. A policy can still lower the delivery limit. Renewing
#: them is explained by `choreo.broker.rabbitmq.steady_queue`.
HANDLER_QUEUE = {
    # Replicated in a cluster, on disk before it is confirmed, and counts deliveries.
    "x-queue-type": "quorum",
    # Without one RabbitMQ 3.x delivers for ever, and 4.x drops what it has delivered 20 times.
    "x-delivery-limit": DELIVERY_LIMIT,
    # The default exchange and a queue's name: the dead-letter queue of the service.
    "x-dead-letter-exchange": "",
    # By default a dead letter is published without waiting for an answer, and gone if the target cannot take it just
    # then. "at-least-once" (3.10 and later) keeps it until the target has confirmed, and demands "reject-publish",
    # since a full queue must not drop its oldest. As there is no length limit, nothing is ever rejected for it;
    # should an operator set one, publishers get a nack and raise, which is what G1 promises.
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}

#: The queue of notices has nowhere to give up to, and RabbitMQ 4 would drop what it has delivered 20 times.
LETTERS_QUEUE = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}


class Topology:
    """Where the events of a service go in and come out. ``namespace`` keeps platforms on one broker apart."""

    def __init__(
        self,
        service: str,
        namespace: str,
        subscriptions: Iterable[Subscription],
        park: Park,
        tasks: Callable[[], Container[str]],
        accept: Callable[[], Container[str]],
        on_consume: OnConsume | None = None,
    ) -> None:
        self.service = service
        self.namespace = namespace
        self._subscriptions = subscriptions
        self._park = park
        self._tasks = tasks
        self._accept = accept
        self._on_consume = on_consume
        self.exchange = Exchange(self.name_of("choreo.events"), type="topic", durable=True)

    def name_of(self, name: str) -> str:
        """The name of a queue or exchange on the broker: ``staging.payment.charge_customer``."""
        return f"{self.namespace}.{name}" if self.namespace else name

    @property
    def dead_letter_queue(self) -> str:
        return self.name_of(f"{self.service}.dead_letters")

    @property
    def default_queue(self) -> str:
        return self.name_of(self.service)

    def queues(self) -> list[Queue]:
        """Every queue that a worker of this service consumes from when it is not told otherwise."""
        handlers = [self._handler_queue(subscription) for subscription in self._subscriptions]
        letters = DeadLetterQueue(
            self.dead_letter_queue,
            routing_key=self.dead_letter_queue,
            queue_arguments=LETTERS_QUEUE,
            handler=f"{self.service}.dead_letters",
            park=self._park,
            prefix=self.name_of(""),
        )
        tasks = TaskQueue(
            self.default_queue,
            Exchange(self.default_queue),
            self.default_queue,
            handler=self.service,
            park=self._park,
            tasks=self._tasks,
            accept=self._accept,
        )
        return [*handlers, letters, tasks]

    def patterns(self) -> dict[str, list[str]]:
        """What each handler's queue is bound to."""
        return {self.name_of(subscription.name): list(subscription.patterns) for subscription in self._subscriptions}

    def _handler_queue(self, subscription: Subscription) -> Queue:
        return HandlerQueue(
            self.name_of(subscription.name),
            routing_key=self.name_of(subscription.name),
            bindings=[binding(self.exchange, pattern) for pattern in subscription.patterns],
            queue_arguments=HANDLER_QUEUE | {"x-dead-letter-routing-key": self.dead_letter_queue},
            handler=subscription.name,
            park=self._park,
            on_consume=self._on_consume,
        )
