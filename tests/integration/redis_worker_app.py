"""The Celery app of the worker processes in test_redis_transport_*.py. It is configured by the environment."""

import json
import os
import time

import redis
from celery import Celery
from kombu import Exchange, Queue, binding

PREFIX = os.environ.get("PREFIX", "")
EVENTS = Exchange("events", type="topic")
_keep = None

app = Celery("worker", broker=os.environ.get("BROKER"))
app.conf.update(
    broker_transport="choreo.broker.redis.transport:Transport",
    broker_transport_options={
        "global_keyprefix": PREFIX,
        "consumer_timeout": float(os.environ.get("CONSUMER_TIMEOUT", "2")),
    },
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_default_queue="tasks",
    task_queues=[Queue("tasks", bindings=[binding(EVENTS, routing_key="order.*")])],
    worker_prefetch_multiplier=int(os.environ.get("PREFETCH", "4")),
)


def note(what: str, value: object) -> None:
    """What happened, for the test to read. It goes past the broker under test, so that cutting that hides nothing."""
    global _keep
    if _keep is None or _keep[0] != os.getpid():
        _keep = os.getpid(), redis.Redis.from_url(os.environ["NOTES"])
    _keep[1].rpush(f"{PREFIX}notes", json.dumps([what, value]))


@app.task(name="work", bind=True)
def work(self, number: int, seconds: float = 0) -> None:
    note("started", number)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(0.05, max(0, until - time.monotonic())))
    note("done", number)


@app.task(name="die", bind=True)
def die(self, times: int) -> None:
    """Kill the process that runs this, some times, then survive."""
    count = (self.request.headers or {}).get("x-delivery-count") or self.request.get("x-delivery-count") or 0
    note("attempt", count)
    if count < times:
        os.kill(os.getpid(), 9)
    note("done", count)
