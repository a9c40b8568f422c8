"""celery-pubsub: publish(topic) sends a group of the subscribed tasks. Subscribers are known in each process."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from celery import Celery

from bench import story
from bench.setting import current

_SET = current()
app = Celery("bench")
app.conf.update(
    broker_url=_SET.broker_url,
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=_SET.prefetch,
    worker_concurrency=_SET.concurrency,
    task_serializer="json",
    accept_content=["json"],
)


def _subscribe() -> Any:
    import celery_pubsub

    for kind, services in story.HEARS.items():
        for service in services:

            def handle(event: dict[str, Any], _service: str = service) -> None:
                story.react(_service, event, celery_pubsub.publish)

            task = app.task(handle, name=f"{service}.{kind}", queue=service, ignore_result=True)
            celery_pubsub.subscribe(kind, task)
    return celery_pubsub.publish


publish = _subscribe()


def run_worker(service: str) -> None:
    """Become the worker of a service."""
    command = [sys.executable, "-m", "celery", "-A", "bench.peers.celery_pubsub", "worker", "-P", _SET.pool]
    command += ["-Q", service, "-n", f"{service}@bench", "--without-gossip", "--without-mingle", "-l", "WARNING"]
    os.execvpe(command[0], command, os.environ)


class Publisher:
    """See `bench.side.Publisher`. Publishes to the tasks that are subscribed in this process."""

    def prepare(self) -> None:
        """Declare exchanges, queues and bindings."""
        from kombu import Exchange, Queue

        with app.connection_for_write() as connection:
            for service in story.SERVICES:
                Queue(service, Exchange(service), service, durable=True)(connection.default_channel).declare()

    def publish_all(self, kind: str, numbers: Iterable[int]) -> None:
        """Publish one event for each number."""
        for number in numbers:
            publish(kind, story.event(kind, number))

    def publish_pairs(self, kinds: tuple[str, str], numbers: Iterable[int]) -> None:
        """Publish the two parts of a join for each number."""
        for number in numbers:
            for kind in kinds:
                publish(kind, story.event(kind, number))
