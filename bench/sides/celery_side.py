"""
Celery without choreo, in three ways (the setting's ``approach``):

- ``topic``: one message per event on a topic exchange, a queue per service. On Redis this is kombu's own transport.
- ``hand``: the publisher knows its subscribers and calls `send_task` once for each.
- ``chord``: the join is a Celery chord, with the parts as its header. Only the join is measured.

In the other two, a join is a hand-written Lua script of one round trip. Messages are acked late.
"""

import os
from collections.abc import Iterable
from typing import Any

from celery import Celery, chord
from kombu import Exchange, Queue, binding

from bench import story
from bench.marks import mark
from bench.setting import current

EXCHANGE = Exchange("bench.events", type="topic", durable=True)
_SET = current()

app = Celery("bench")
app.conf.update(
    broker_url=_SET.broker_url,
    result_backend=_SET.redis_url if _SET.approach == "chord" else None,
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=_SET.approach != "chord",
    worker_prefetch_multiplier=_SET.prefetch,
    worker_concurrency=_SET.concurrency,
    task_serializer="json",
    accept_content=["json"],
    task_default_queue="driver",
    **_SET.settings,
)
if _SET.patience and _SET.broker_url.startswith("redis"):
    # By default kombu looks every ten seconds, and acts every tenth time.
    app.conf.broker_transport_options = {
        "visibility_timeout": _SET.patience,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }


def _queue(service: str) -> Queue:
    if _SET.approach == "topic":
        return Queue(service, bindings=[binding(EXCHANGE, kind) for kind in story.hears(service)], durable=True)
    return Queue(service, Exchange(service, durable=True), routing_key=service, durable=True)


app.conf.task_queues = [_queue(service) for service in story.SERVICES]


def publish(kind: str, event: dict[str, Any]) -> None:
    """Publish an event in the way of the approach."""
    if _SET.approach == "topic":
        app.send_task(
            kind, args=(event,), exchange=EXCHANGE.name, exchange_type="topic", routing_key=kind, ignore_result=True
        )
    else:
        for service in story.HEARS.get(kind, (story.ARCHIVE_QUEUE,)):
            app.send_task(f"{service}.{kind}", args=(event,), queue=service, ignore_result=True)


@app.task(name="chord.part")
def part(event: dict[str, Any]) -> dict[str, Any]:
    """A task in the header of the chord: one part of the join."""
    return event


@app.task(name="chord.done", ignore_result=True)
def done(events: list[dict[str, Any]]) -> None:
    """The body of the chord: the handler of the join."""
    mark(story.SHIPPED, events[0]["data"]["n"])


class Publisher:
    """See `bench.side.Publisher`. Sends from a process that runs no tasks."""

    def prepare(self) -> None:
        """Declare exchanges, queues and bindings."""
        with app.connection_for_write() as connection:
            for queue in app.conf.task_queues:
                queue(connection.default_channel).declare()
        if _SET.approach == "topic":
            self._bind(story.ARCHIVE_QUEUE, story.ARCHIVE_TYPE)
        else:
            archive = Queue(story.ARCHIVE_QUEUE, Exchange(story.ARCHIVE_QUEUE), story.ARCHIVE_QUEUE, durable=True)
            app.amqp.queues.add(archive)
            with app.connection_for_write() as connection:
                archive(connection.default_channel).declare()

    def bind_others(self, first: int, count: int) -> None:
        """Bind queues that match no published event."""
        with app.connection_for_write() as connection:
            for number in range(first, first + count):
                queue = Queue(f"bench.other.{number}", EXCHANGE, f"other.thing_{number}", durable=True)
                queue(connection.default_channel).declare()

    def _bind(self, name: str, kind: str) -> None:
        # Kombu's Redis transport treats an exchange as `direct` until it is declared in this process.
        with app.connection_for_write() as connection:
            Queue(name, EXCHANGE, kind, durable=True)(connection.default_channel).declare()

    def publish_all(self, kind: str, numbers: Iterable[int]) -> None:
        """Publish one event for each number."""
        for number in numbers:
            publish(kind, story.event(kind, number))

    def publish_pairs(self, kinds: tuple[str, str], numbers: Iterable[int]) -> None:
        """Publish the two parts of a join for each number."""
        for number in numbers:
            if _SET.approach == "chord":
                chord([part.s(story.event(kind, number)) for kind in kinds])(done.s())
            else:
                for kind in kinds:
                    publish(kind, story.event(kind, number))

    def fill(self, kind: str, numbers: Iterable[int]) -> None:
        """Publish in bulk."""
        self.publish_all(kind, numbers)

    def lengths(self, queues: list[str]) -> dict[str, int]:
        """Return the number of messages in each queue."""
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            return {queue: channel.queue_declare(queue, passive=True).message_count for queue in queues}

    def purge(self, queue: str) -> None:
        """Empty a queue."""
        with app.connection_for_write() as connection:
            connection.default_channel.queue_purge(queue)

    def queues(self, kind: str) -> list[str]:
        """Return the queues that get a copy of this type."""
        if kind == story.ARCHIVE_TYPE:
            return [story.ARCHIVE_QUEUE]
        return list(story.SERVICES) if kind == "order.viewed" else []


def _register(service: str) -> None:
    for kind in story.hears(service):
        # A message on the exchange names no handler, so the name of the task is the event type.
        name = kind if _SET.approach == "topic" else f"{service}.{kind}"

        @app.task(name=name)
        def handle(event: dict[str, Any]) -> None:
            story.react(service, event, publish)


if _name := os.environ.get("CHOREO_BENCH_SERVICE"):
    _register(_name)
