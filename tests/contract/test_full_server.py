"""A Redis that is full refuses what is written. What only looks still answers: it is needed most then."""

from collections.abc import Iterator
from shutil import which

import pytest
import redis

from choreo import Event, Service, StoreError
from choreo.local.server import EmbeddedServer


class OrderPlaced(Event):
    pass


@pytest.fixture(params=["redis-server", "valkey-server"])
def app(request: pytest.FixtureRequest) -> Iterator[Service]:
    # Redis 7.0 refuses all that a transaction reads as well, and Valkey does not.
    program = which(request.param)
    if program is None and request.param == "redis-server":
        pytest.skip("there is no redis-server on the path")
    with EmbeddedServer(program=program) as server:
        app = Service("payment", broker=server.url, config=None, set_as_current=False)

        @app.on(OrderPlaced)
        def charge(order: OrderPlaced) -> None: ...

        with app.connection_for_write() as connection:
            for queue in app.runtime.topology.queues():
                queue(connection).declare()
        app.runtime.introduce()
        app.publish(OrderPlaced(), "ORD-1")
        app.runtime.sightings.flush(60)
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", 1)
            yield app
            client.config_set("maxmemory", 0)
        app.publisher.close()


def test_every_question_about_the_platform_is_answered_by_a_server_that_is_full(app: Service) -> None:
    with pytest.raises(StoreError, match="maxmemory"):
        app.runtime.store._calls.ask(lambda client: client.set("key", "value"))

    (trace,) = app.observe.trace("ORD-1")
    reading = app.runtime.new_readings().take()

    assert [line.step.handler for line in trace.lines if line.step] == ["payment.charge"]
    assert app.observe.why_not("payment.charged", "ORD-1").cause.name
    assert [state.waiting for state in app.observe.top("payment.charge").handlers] == [1]
    assert [stuck.count for stuck in app.observe.stuck("payment.charge")] == [1]
    assert app.observe.map().events
    assert [one.depth.count for one in reading.handlers if one.name == "payment.charge"] == [1]
    assert reading.has_broker
    assert app.backlog()["payment.charge"].due == 0
    assert list(app.dead_letters) == list(app.joins) == list(app.stories) == []
