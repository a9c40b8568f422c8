"""What is left on the broker and in the store when all is done. Nothing should be."""

from collections.abc import Iterator
from typing import Any

import kombu
import redis
from amqp.exceptions import NotFound

from tests.chaos.ledger import HEARS


def remains(broker_url: str, store_url: str, namespace: str) -> list[str]:
    """Everything that waits, is in flight, is leased or is a dead letter, in words."""
    found = list(_in_store(redis.Redis.from_url(store_url), namespace))
    if broker_url.startswith("redis"):
        found += _on_redis(redis.Redis.from_url(broker_url), namespace)
    else:
        found += _on_rabbitmq(broker_url, namespace)
    return found


def queues(namespace: str) -> list[str]:
    services = sorted({handler.partition(".")[0] for handler in HEARS})
    return [f"{namespace}.{handler}" for handler in HEARS] + [f"{namespace}.{name}.dead_letters" for name in services]


def _on_redis(client: Any, namespace: str) -> Iterator[str]:
    for queue in queues(namespace):
        if length := client.llen(queue):
            yield f"{length} message(s) in queue {queue}"
    for key in [*client.scan_iter("*_choreo.inflight.*", count=1000), *client.scan_iter("unacked*", count=1000)]:
        kind = client.type(key)
        if length := client.hlen(key) if kind == b"hash" else client.zcard(key) if kind == b"zset" else 0:
            yield f"{length} message(s) in flight in {key.decode()}"


def _on_rabbitmq(url: str, namespace: str) -> Iterator[str]:
    with kombu.Connection(url) as connection:
        for queue in queues(namespace):
            try:
                count = connection.default_channel.queue_declare(queue, passive=True).message_count
            except NotFound:
                continue
            if count:
                yield f"{count} message(s) in queue {queue}"


def _in_store(client: Any, namespace: str) -> Iterator[str]:
    for name in client.scan_iter(f"choreo:{namespace}:*", count=1000):
        key = name.decode()
        _, _, rest = key.partition("}:")
        if rest == "due" and (count := client.zcard(key)):
            ids = [entry.decode() for entry in client.zrange(key, 0, 4)]
            yield f"{count} message(s) in the schedule {key}: {ids}"
        elif rest == "messages" and (count := client.hlen(key)):
            yield f"{count} message(s) kept for the schedule in {key}"
        elif rest == "letters" and (count := client.hlen(key)):
            yield f"{count} dead letter(s) in {key}: {client.hvals(key)[0][:500]!r}"
        elif rest.startswith("parts:"):
            yield f"the parts of a join in {key}"
        elif rest.startswith("unit:") and client.hexists(key, "token"):
            yield f"a lease in {key}"
