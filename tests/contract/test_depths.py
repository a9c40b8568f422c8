"""What waits in queues, on real brokers: counted, and looked at from the front, without taking anything."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from choreo import Service
from choreo.broker.depths import Depths
from tests.contract.declared import declared
from tests.unit.events import OrderPlaced

ORDER = OrderPlaced(customer_id="alice", total_cents=5)


@pytest.fixture(params=["redis", "rabbitmq"])
def app(request: pytest.FixtureRequest, namespace: str) -> Iterator[Service]:
    url = request.getfixturevalue(f"{request.param}_url")
    app = Service("payment", broker=url, config={"choreo_namespace": namespace}, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    with declared(app):
        yield app


@pytest.fixture
def depths(app: Service) -> Iterator[Depths]:
    depths = Depths(app.connection_for_write)
    yield depths
    depths.close()


def is_on_redis(app: Service) -> bool:
    return str(app.conf.broker_url).startswith("redis")


def test_messages_are_counted_and_stay(app: Service, depths: Depths, namespace: str) -> None:
    queue, letters = f"{namespace}.payment.charge", f"{namespace}.payment.dead_letters"
    app.publish(ORDER, subject="ORD-1")
    app.publish(ORDER, subject="ORD-2")

    for _ in range(2):
        found = depths.look([queue, letters])
        assert {name: depth.count for name, depth in found.items()} == {queue: 2, letters: 0}


def test_the_first_event_tells_its_age_on_redis(app: Service, depths: Depths, namespace: str) -> None:
    queue = f"{namespace}.payment.charge"
    first = app.publish(ORDER, subject="ORD-1")
    app.publish(ORDER, subject="ORD-2")

    (found,) = depths.look([queue]).values()

    if is_on_redis(app):
        assert (found.first, found.subject, found.consumers) == (first.time.timestamp(), "ORD-1", None)
    else:
        assert (found.first, found.subject, found.consumers) == (None, "", 0)


def test_a_queue_that_does_not_exist_holds_nothing(app: Service, depths: Depths, namespace: str) -> None:
    app.publish(ORDER)

    found = depths.look([f"{namespace}.nosuch", f"{namespace}.payment.charge"])

    assert {name: depth.count for name, depth in found.items() if depth.count} == {f"{namespace}.payment.charge": 1}


def test_the_namespaces_are_those_of_the_platforms_on_this_redis(app: Service, depths: Depths, namespace: str) -> None:
    if is_on_redis(app):
        assert namespace in (depths.namespaces() or [])
    else:
        assert depths.namespaces() is None


def test_redis_tells_of_its_memory(app: Service, depths: Depths) -> None:
    told = depths.server()

    assert "maxmemory_policy" in told if is_on_redis(app) else told is None  # type: ignore[operator]


@pytest.mark.parametrize("text", [b"no JSON", b"[]", b'{"body": 5}', b'{"body": "[[{}]]", "headers": []}', b"[" * 9999])
def test_a_message_that_cannot_be_read_is_counted(redis_url: str, namespace: str, text: bytes) -> None:
    app = Service("payment", broker=redis_url, config={"choreo_namespace": namespace}, set_as_current=False)
    depths: Any = Depths(app.connection_for_write)
    depths.look([])
    depths._held.default_channel.client.lpush(f"{namespace}.odd", text)

    (found,) = depths.look([f"{namespace}.odd"]).values()

    assert (found.count, found.first, found.returned) == (1, None, 0)
    depths.close()


def test_a_message_that_came_back_tells_how_often(redis_url: str, namespace: str) -> None:
    app = Service("payment", broker=redis_url, config={"choreo_namespace": namespace}, set_as_current=False)
    depths: Any = Depths(app.connection_for_write)
    depths.look([])
    depths._held.default_channel.client.lpush(f"{namespace}.odd", b'{"headers": {"x-delivery-count": 3}}')

    assert depths.look([f"{namespace}.odd"])[f"{namespace}.odd"].returned == 3
    depths.close()


def test_messages_of_dead_workers_wait_and_those_of_living_ones_do_not(redis_url: str, namespace: str) -> None:
    prefix, queue = f"{namespace}:", "payment.charge"
    options = {"broker_transport_options": {"global_keyprefix": prefix}}
    app = Service("payment", broker=redis_url, config=options, set_as_current=False)
    depths: Any = Depths(app.connection_for_write)
    depths.look([])
    client = redis.Redis.from_url(redis_url)
    event = '{"body": "[[{\\"time\\": \\"1970-01-01T00:01:00Z\\", \\"subject\\": \\"ORD-1\\"}]]", "headers": {%s}}'
    owners = {"living-1-15000": 4_000_000_000_000, "dead-1-15000": 1000}
    client.zadd(f"{prefix}_choreo.consumers", owners)
    held = [event % "", event % '"x-delivery-count": 2']
    for number, text in enumerate(held):
        client.hset(f"{prefix}_choreo.inflight.living-1-15000", str(number), f"{prefix}{queue}\0token\0{text}")
    client.hset(f"{prefix}_choreo.inflight.dead-1-15000", "1", f"{prefix}{queue}\0token\0{event % ''}")
    client.lpush(f"{prefix}{queue}", "{}", "{}")

    (found,) = depths.look([queue]).values()

    assert (found.count, found.held, found.returned) == (3, 2, 2)
    assert (found.first, found.subject) == (60.0, "ORD-1")
    depths.close()
