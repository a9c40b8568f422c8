"""
What RabbitMQ itself takes: `python -m bench.floor [URL]`, in one minute.

One process publishes a message with py-amqp, waits for the confirm, receives it over a second connection and acks it:
20 a second, and then one after the other. Then it publishes each message to four queues, one after the other, while
four processes receive and ack them. choreo declares quorum queues, which have copies in a cluster. Of both kinds,
RabbitMQ writes a persistent message to disk before it confirms it. No library whose publisher waits for each confirm is
quicker.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Process
from urllib.parse import urlsplit
from uuid import uuid4

import amqp

URL = "amqp://guest:guest@127.0.0.1:5672"
#: How many messages are measured, and how many a second come in the quiet part.
COUNT, RATE = 400, 20
BODY = b"x" * 600
#: Of each consumer in the last part, and how long it lasts.
PREFETCH, FAN_OUT_SECONDS = 64, 4.0


@contextmanager
def _channel(url: str) -> Iterator[amqp.Channel]:
    place = urlsplit(url)
    options = {"userid": place.username or "guest", "password": place.password or "guest"}
    with amqp.Connection(
        f"{place.hostname}:{place.port or 5672}", virtual_host=place.path[1:] or "/", **options
    ) as one:
        yield one.channel()


class Hop:
    """A durable queue of one kind, and both ends of it."""

    def __init__(self, publishing: amqp.Channel, consuming: amqp.Channel, kind: str) -> None:
        self.queue = f"choreo-bench-floor-{kind}-{uuid4().hex[:8]}"
        self._publishing, self._consuming = publishing, consuming
        self._received: list[amqp.Message] = []
        publishing.confirm_select()
        publishing.queue_declare(self.queue, durable=True, auto_delete=False, arguments={"x-queue-type": kind})
        consuming.basic_qos(0, 1, False)
        self._consumer = consuming.basic_consume(self.queue, callback=self._received.append)

    def close(self) -> None:
        """Delete the queue."""
        self._consuming.basic_cancel(self._consumer)
        self._publishing.queue_delete(self.queue)

    def once(self) -> tuple[float, float]:
        """Send a message, and receive it. Returns the milliseconds until it was confirmed, and until it was there."""
        began = time.perf_counter()
        message = amqp.Message(BODY, delivery_mode=2)
        self._publishing.basic_publish_confirm(message, exchange="", routing_key=self.queue)
        confirmed = time.perf_counter()
        while not self._received:
            self._consuming.connection.drain_events(timeout=10)
        arrived = time.perf_counter()
        self._consuming.basic_ack(self._received.pop().delivery_tag)
        return (confirmed - began) * 1e3, (arrived - began) * 1e3


def measure(url: str, kind: str) -> None:
    """Print a row for this kind of queue."""
    with _channel(url) as publishing, _channel(url) as consuming:
        hop = Hop(publishing, consuming, kind)
        try:
            began = time.perf_counter()
            for _ in range(COUNT):
                hop.once()
            busy = COUNT / (time.perf_counter() - began)
            times = []
            for _ in range(COUNT):
                times.append(hop.once())
                time.sleep(1 / RATE)
        finally:
            hop.close()
    confirms, hops = (sorted(column) for column in zip(*times, strict=True))
    cells = [statistics.median(confirms), confirms[-COUNT // 100], statistics.median(hops), hops[-COUNT // 100]]
    print(f"| {kind} | " + " | ".join(f"{cell:.1f}" for cell in cells) + f" | {busy:,.0f} |", flush=True)


def consume(url: str, queue: str) -> None:
    """Receive and ack what comes, until the process is ended."""
    with _channel(url) as channel:
        channel.basic_qos(0, PREFETCH, False)
        channel.basic_consume(queue, callback=lambda message: channel.basic_ack(message.delivery_tag))
        while True:
            channel.connection.drain_events()


def fan_out(url: str, kind: str) -> None:
    """Print how many messages a second one publisher brings to four queues that are consumed."""
    exchange = f"choreo-bench-floor-{uuid4().hex[:8]}"
    queues = [f"{exchange}-{number}" for number in range(4)]
    with _channel(url) as channel:
        channel.confirm_select()
        channel.exchange_declare(exchange, "topic", durable=True, auto_delete=False)
        for queue in queues:
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-queue-type": kind})
            channel.queue_bind(queue, exchange, "order.*")
        consumers = [Process(target=consume, args=(url, queue), daemon=True) for queue in queues]
        try:
            for consumer in consumers:
                consumer.start()
            time.sleep(1)
            count, began = 0, time.perf_counter()
            while (took := time.perf_counter() - began) < FAN_OUT_SECONDS:
                message = amqp.Message(BODY, delivery_mode=2)
                channel.basic_publish_confirm(message, exchange=exchange, routing_key="order.placed")
                count += 1
        finally:
            for consumer in consumers:
                consumer.kill()
                consumer.join()
            for queue in queues:
                channel.queue_delete(queue)
            channel.exchange_delete(exchange)
    print(f"| {kind} | {count / took:,.0f} | {4 * count / took:,.0f} |", flush=True)


def main(url: str = URL) -> None:
    """Print two tables."""
    print("| queue | confirm p50, ms | p99 | one hop p50, ms | p99 | one after the other, messages/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for kind in ("classic", "quorum", "classic", "quorum"):
        measure(url, kind)
    print("\n| four queues | events/s | deliveries/s |")
    print("| --- | ---: | ---: |")
    for kind in ("classic", "quorum", "classic", "quorum"):
        fan_out(url, kind)


if __name__ == "__main__":
    main(*sys.argv[1:])
