"""Bindings on real brokers: made, removed and looked at on one channel, whatever is missing in between."""

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Queue

from choreo import Service
from choreo.broker.bindings import Bindings

PATTERN = "order.placed"


class Town:
    """Some queues on a broker, and how many channels were opened to look after them."""

    def __init__(self, url: str, namespace: str) -> None:
        self.app = Service("payment", broker=url, config={"choreo_namespace": namespace}, set_as_current=False)
        self.names = [f"{namespace}.queue-{number}" for number in range(3)]
        self.channels = 0
        self.connection: Any = self.app.connection_for_write()
        for name in self.names:
            Queue(name, durable=True, channel=self.connection).queue_declare()
        self.bindings = Bindings(self._connect, self.app.runtime.topology.exchange)

    def _connect(self) -> Connection:
        connection: Any = self.app.connection_for_write()
        make = connection.channel

        def channel() -> Any:
            self.channels += 1
            return make()

        connection.channel = channel
        return connection

    def reached(self) -> list[int]:
        """Publish one event; how many messages each queue holds then."""
        producer = self.connection.Producer()
        producer.publish("x", exchange=self.app.runtime.topology.exchange, routing_key=PATTERN, retry=False)
        return [self.length(name) for name in self.names]

    def length(self, name: str) -> int:
        return int(Queue(name, channel=self.connection).queue_declare(passive=True).message_count)

    def close(self) -> None:
        for name in self.names:
            Queue(name, channel=self.connection).delete()
        self.connection.close()


@pytest.fixture(params=["redis_url", "rabbitmq_url"])
def town(request: pytest.FixtureRequest, namespace: str) -> Iterator[Town]:
    town = Town(request.getfixturevalue(request.param), namespace)
    yield town
    town.close()


@pytest.fixture
def redis_town(redis_url: str, namespace: str) -> Iterator[Town]:
    town = Town(redis_url, namespace)
    yield town
    town.bindings.close()
    town.close()


def test_all_are_made_and_removed_on_one_channel(town: Town):
    pairs = [(name, PATTERN) for name in town.names]

    town.bindings.make(pairs)
    assert town.channels == 1
    assert town.reached() == [1, 1, 1]

    town.bindings.remove(pairs[1:])
    assert town.channels == 2
    assert town.reached() == [2, 1, 1]
    assert town.bindings.message_counts(town.names) == dict(zip(town.names, [2, 1, 1], strict=True))
    assert town.channels == 3


def test_a_queue_that_does_not_exist_keeps_no_other_from_being_looked_after(town: Town):
    first, second, third = town.names
    town.app.runtime.topology.exchange(town.connection).declare()
    Queue(second, channel=town.connection).delete()

    town.bindings.make([(name, PATTERN) for name in town.names])

    Queue(second, durable=True, channel=town.connection).queue_declare()
    assert town.reached()[::2] == [1, 1]
    assert town.bindings.message_counts([first, "no such queue", third]) == {first: 1, third: 1}
    town.bindings.remove([(name, PATTERN) for name in ("no such queue", third)])
    assert town.reached()[::2] == [2, 1]


def test_only_what_is_missing_is_made(town: Town):
    pairs = [(name, PATTERN) for name in town.names]
    town.bindings.make(pairs)
    town.bindings.remove(pairs[1:2])

    town.bindings.ensure(pairs)
    assert town.reached() == [1, 1, 1]

    town.bindings.ensure(pairs)
    assert town.reached() == [2, 2, 2]
    town.bindings.close()
    town.bindings.ensure(pairs)
    assert town.reached() == [3, 3, 3]
    town.bindings.close()


def test_on_redis_finding_out_that_nothing_is_missing_changes_nothing(redis_town: Town):
    town = redis_town
    pairs = [(name, PATTERN) for name in town.names]
    town.bindings.make(pairs)
    town.bindings.ensure(pairs)
    town.reached()
    channels, server = town.channels, town.connection.default_channel.wire

    town.bindings.ensure(pairs)

    assert town.channels == channels, "it opens nothing"
    assert server.command("EXISTS", f"_choreo.routes.{town.app.runtime.topology.exchange.name}"), (
        "publishers need not look anew"
    )


def test_a_server_that_was_away_is_asked_again(redis_town: Town):
    town = redis_town
    pairs = [(name, PATTERN) for name in town.names]
    town.bindings.ensure(pairs)
    held = town.bindings._held
    assert held is not None
    held.default_channel.wire._connection.disconnect()
    held.default_channel.pool.disconnect()

    town.bindings.ensure(pairs)

    assert town.reached() == [1, 1, 1]
