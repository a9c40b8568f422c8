"""choreo: four services, declared as users declare them."""

import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from kombu import Queue

from bench import story
from bench.setting import current
from choreo import Event, Service
from choreo.store import Terms


class _Order(Event, abstract=True):
    n: int
    customer_id: str
    restaurant_id: str
    items: list[str]
    total_cents: int
    note: str


class OrderViewed(_Order): ...


class OrderArchived(_Order): ...


class OrderPlaced(_Order): ...


class OrderConfirmed(_Order): ...


class PaymentCharged(_Order): ...


class DriverAssigned(_Order): ...


class ItemPacked(_Order): ...


class LabelPrinted(_Order): ...


EVENTS: dict[str, type[_Order]] = {
    event.event_type: event
    for event in (
        OrderViewed,
        OrderArchived,
        OrderPlaced,
        OrderConfirmed,
        PaymentCharged,
        DriverAssigned,
        ItemPacked,
        LabelPrinted,
    )
}


def service(name: str) -> Service:
    """Return one of the four services. Any other name gives a service without handlers, for the publisher."""
    setting = current()
    config: dict[str, Any] = {
        "broker_url": setting.broker_url,
        "choreo_store_url": setting.redis_url,
        "worker_prefetch_multiplier": setting.prefetch,
        "worker_concurrency": setting.concurrency,
        **setting.settings,
    }
    if setting.patience and setting.broker_url.startswith("redis"):
        config["broker_transport_options"] = {"consumer_timeout": setting.patience}
    # The claim of a dead worker ends with its lease.
    terms = Terms(lease=timedelta(seconds=setting.patience)) if setting.patience else Terms()
    app = Service(name, config=config, terms=terms)
    if name not in story.SERVICES:
        return app

    @app.on(OrderViewed)
    def view(viewed: OrderViewed) -> None:
        story.done(name, "order.viewed", viewed.n)

    if name == "restaurant":

        @app.on(OrderPlaced)
        def confirm(order: OrderPlaced) -> OrderConfirmed:
            story.done(name, "order.placed", order.n)
            return OrderConfirmed(**order.model_dump())

    if name == "payment":

        @app.on(OrderPlaced)
        def charge(order: OrderPlaced) -> PaymentCharged:
            story.done(name, "order.placed", order.n)
            return PaymentCharged(**order.model_dump())

    if name == "driver":

        @app.join(OrderConfirmed, PaymentCharged)
        def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
            story.done(name, "payment.charged", charged.n)
            return DriverAssigned(**confirmed.model_dump())

        @app.join(ItemPacked, LabelPrinted)
        def ship(packed: ItemPacked, printed: LabelPrinted) -> None:
            assert packed.n == printed.n
            story.done(name, "label.printed", packed.n)

    if name == "notification":

        @app.on(DriverAssigned)
        def notify(assigned: DriverAssigned) -> None:
            story.done(name, "driver.assigned", assigned.n)

    return app


class Publisher:
    """See `bench.side.Publisher`. Announces from a process without handlers."""

    def __init__(self) -> None:
        self.app = service("orders")

    def prepare(self) -> None:
        """Declare the queues and bindings of all workers, so that a backlog can be filled before they start."""
        for name in story.SERVICES:
            other = service(name)
            with other.connection_for_write() as connection:
                for queue in other.amqp.queues.values():
                    queue(connection.default_channel).declare()
        self._bind(story.ARCHIVE_QUEUE, story.ARCHIVE_TYPE)

    def bind_others(self, first: int, count: int) -> None:
        """Bind queues that match no published event."""
        with self.app.connection_for_write() as connection:
            for number in range(first, first + count):
                self._queue(f"bench.other.{number}", f"other.thing_{number}")(connection.default_channel).declare()

    def _bind(self, queue: str, kind: str) -> None:
        with self.app.connection_for_write() as connection:
            self._queue(queue, kind)(connection.default_channel).declare()

    def _queue(self, name: str, kind: str) -> Queue:
        return Queue(name, self.app.runtime.topology.exchange, kind, durable=True)

    def publish_all(self, kind: str, numbers: Iterable[int]) -> None:
        """Publish one event for each number."""
        cls, publish = EVENTS[kind], self.app.publish
        for number in numbers:
            publish(cls(**story.data(number)), subject=f"ORD-{number:08d}")

    def publish_pairs(self, kinds: tuple[str, str], numbers: Iterable[int]) -> None:
        """Publish the two parts of a join for each number."""
        first, second = (EVENTS[kind] for kind in kinds)
        publish = self.app.publish
        for number in numbers:
            subject, data = f"ORD-{number:08d}", story.data(number)
            publish(first(**data), subject=subject)
            publish(second(**data), subject=subject)

    def fill(self, kind: str, numbers: Iterable[int]) -> None:
        """Publish in bulk."""
        for batch in _batches(numbers, 200):
            # `about` gives each event its own subject.
            self.app.publish_many([EVENTS[kind](**story.data(n)).about(f"ORD-{n:08d}") for n in batch])

    def lengths(self, queues: list[str]) -> dict[str, int]:
        """Return the number of messages in each queue."""
        with self.app.connection_for_read() as connection:
            channel = connection.default_channel
            return {queue: channel.queue_declare(queue, passive=True).message_count for queue in queues}

    def purge(self, queue: str) -> None:
        """Empty a queue."""
        with self.app.connection_for_write() as connection:
            connection.default_channel.queue_purge(queue)

    def queues(self, kind: str) -> list[str]:
        """Return the queues that get a copy of this type."""
        if kind == story.ARCHIVE_TYPE:
            return [story.ARCHIVE_QUEUE]
        return list(story.VIEWED) if kind == "order.viewed" else []


def _batches(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for number in numbers:
        batch.append(number)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


if name := os.environ.get("CHOREO_BENCH_SERVICE"):
    app = service(name)
