"""Looking into queues on real brokers: how much waits, since when, and that looking changes nothing."""

from collections.abc import Iterator

import pytest
import redis

from choreo import Event, Service
from choreo.broker.depths import Depth


class OrderPlaced(Event):
    text: str = ""


@pytest.fixture(params=["redis_url", "rabbitmq_url"])
def app(request: pytest.FixtureRequest, redis_url: str, namespace: str) -> Iterator[Service]:
    """A service whose queues are bound, and that has no worker."""
    url = request.getfixturevalue(request.param)
    config = {"choreo_namespace": namespace, "choreo_store_url": redis_url}
    app = Service("payment", broker=url, config=config, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    with app.connection_for_write() as connection:
        for queue in app.runtime.topology.queues():
            queue(connection.default_channel).declare()
    yield app
    app.runtime.depths.close()
    app.publisher.close()


def test_it_counts_what_waits_and_tells_since_when_and_changes_nothing(app: Service) -> None:
    queue, other = app.runtime.queue_of("payment.charge"), app.runtime.queue_of("payment")
    assert app.runtime.depths_of([queue, other]) == {queue: Depth(), other: Depth()}

    first = app.publish(OrderPlaced(text="é"))
    app.publish(OrderPlaced())

    since = None if app.conf.broker_url.startswith("amqp") else first.time
    for _ in range(2):
        assert app.runtime.depths_of([queue, other]) == {queue: Depth(2, since), other: Depth()}


def test_a_queue_that_does_not_exist_is_no_error(app: Service) -> None:
    queue = app.runtime.queue_of("payment.charge")

    assert app.runtime.depths_of([]) == {}
    assert app.runtime.depths_of(["no.such.queue", queue]).get("no.such.queue", Depth()) == Depth()
    assert app.runtime.depths_of([queue])[queue] == Depth()


def test_what_any_program_can_put_there_hides_nothing_else(app: Service, redis_url: str) -> None:
    if app.conf.broker_url.startswith("amqp"):
        pytest.skip("RabbitMQ does not show what waits")
    queue, other = app.runtime.queue_of("payment.charge"), app.runtime.queue_of("payment")
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(queue, b"\xff no message", b'{"body": "[[{}]]", "properties": {}}')
        client.set(other, "no list")

    assert app.runtime.depths_of([queue, other]) == {queue: Depth(2), other: Depth()}
