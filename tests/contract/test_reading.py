"""RabbitMQ delivers properties that py-amqp cannot decode: a real broker, and a consumer that goes on."""

from typing import Any

import amqp
import pytest
from kombu import Consumer, Queue

from choreo.broker.connections import BrokerConnection
from tests.unit.test_reading import EVENTS, OTHERS, properties
from tests.waiting import eventually

#: Those that RabbitMQ itself takes: it closes the connection for nonsense.
TAKEN = [
    *("milliseconds", "the last timestamp", "timestamp in a table", "deep tables", "deep arrays"),
    *("content type", "long content type", "encoding"),
]


class Raw(amqp.Message):
    raw = b""

    def _serialize_properties(self) -> bytes:
        return self.raw


def publish(connection: Any, queue: str, raw: bytes, body: bytes) -> None:
    message = Raw(body)
    message.raw = raw
    connection.default_channel.basic_publish(message, "", queue)


@pytest.mark.parametrize("name", TAKEN)
def test_a_consumer_gets_every_message_and_the_next_one(rabbitmq_url: str, namespace: str, name: str) -> None:
    got: list[Any] = []

    def on_message(message: Any) -> None:
        # py-amqp decodes a body whose encoding it knows.
        got.append(message.body.encode() if isinstance(message.body, str) else bytes(message.body))
        message.ack()

    with BrokerConnection(rabbitmq_url) as connection, BrokerConnection(rabbitmq_url) as other:
        channel: Any = connection.channel()
        queue = Queue(namespace, durable=False, auto_delete=True).bind(channel)
        queue.declare()
        publish(other, namespace, (EVENTS | OTHERS)[name], b"odd")
        publish(other, namespace, properties(), b"good")

        with Consumer(channel, [queue], on_message=on_message, accept=None):
            eventually(lambda: connection.drain_events(timeout=5) or len(got) == 2, timeout=20)

    assert got == [b"odd", b"good"]
