"""Consumers that ack nothing (remote control, worker events) drop what they cannot read, on real brokers, and go on."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
from kombu import Consumer, Exchange, Producer, Queue

from choreo.broker.connections import BrokerConnection
from tests.waiting import eventually


class Hearing:
    """A consumer that expects each message to be a table with a number: of a broadcast, or of the answers to one."""

    def __init__(self, url: str, name: str, kind: str = "fanout") -> None:
        self.url, self.exchange = url, Exchange(name, kind, durable=False, auto_delete=True)
        self.connection = BrokerConnection(url)
        self.got: list[int] = []
        channel: Any = self.connection.channel()
        queue = Queue(f"{name}.mailbox", self.exchange, durable=False, auto_delete=True)
        self.consumer = Consumer(channel, [queue], on_message=self.on_message, accept=["json"], no_ack=True)
        self.consumer.consume()

    def on_message(self, message: Any) -> None:
        self.got.append(int(message.payload["number"]))

    def send(self, body: Any, **options: Any) -> None:
        with BrokerConnection(self.url) as connection:
            Producer(connection.channel(), self.exchange).publish(body, declare=[self.exchange], **options)

    def hears(self, number: int) -> None:
        def heard() -> bool:
            self.send({"number": number})  # again: kombu subscribes in Redis when it first waits
            with suppress(TimeoutError):
                self.connection.drain_events(timeout=1)
            return number in self.got

        eventually(heard)


@pytest.fixture(params=["redis fanout", "redis direct", "rabbitmq fanout", "rabbitmq direct"])
def hearing(request: pytest.FixtureRequest, namespace: str) -> Iterator[Hearing]:
    broker, _, kind = request.param.partition(" ")
    hearing = Hearing(request.getfixturevalue(f"{broker}_url"), namespace, kind)
    yield hearing
    hearing.connection.close()


JUNK: list[dict[str, Any]] = [
    *({"body": body} for body in ({}, [], 5, None, "x", {"number": "x"}, {"number": None}, [{"number": 1}])),
    {"body": b"no json", "content_type": "application/json", "content_encoding": "utf-8"},
    {"body": b"\x80\x04]\x94.", "content_type": "application/x-python-serialize", "content_encoding": "binary"},
    {"body": b"x", "content_type": "application/json", "headers": {"compression": "application/x-gzip"}},
    {"body": b"x", "content_type": "application/json", "headers": {"compression": "nope"}},
    {"body": b"x", "content_type": "x/y", "content_encoding": "no-such-codec"},
]
#: In Redis any bytes can be published.
RAW = [
    *(b"x", b"\xff\xfe", b"{}", b"[]", b"5", b"null", b'"x"', b"[" * 100_000, b'{"properties": 5}', b'{"body": 5}'),
    *(json.dumps({"__type__": kind, "__value__": "x"}).encode() for kind in ("decimal", "nope", "bytes")),
    json.dumps({"properties": {}, "body": "{}"}).encode(),
    json.dumps({"properties": {"delivery_tag": 5, "body_encoding": "nope"}, "body": "{}", "headers": 5}).encode(),
]


def test_messages_in_other_forms_are_dropped_with_a_line_each_and_the_next_one_is_read(
    hearing: Hearing, caplog: pytest.LogCaptureFixture
) -> None:
    hearing.hears(1)

    for junk in JUNK:
        hearing.send(**junk)
    hearing.hears(2)

    assert set(hearing.got) == {1, 2}
    lines = [record for record in caplog.records if "cannot be read is dropped" in record.getMessage()]
    assert len(lines) == len(JUNK)


def test_what_is_published_in_redis_and_no_message_of_kombu_is_dropped(redis_url: str, namespace: str) -> None:
    hearing = Hearing(redis_url, namespace)
    hearing.hears(1)

    with redis.Redis.from_url(redis_url) as client:
        for raw in RAW:
            assert client.publish(f"/0.{namespace}", raw) == 1
    hearing.hears(2)

    assert set(hearing.got) == {1, 2}
    hearing.connection.close()
