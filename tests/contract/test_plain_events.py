"""With ``choreo_cloudevents_exchange`` RabbitMQ holds each event twice before publishing returns: one is plain."""

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import amqp
import pytest
from kombu import Exchange, Queue

from choreo import Event, PublishError, Service
from choreo.broker.lines import Post
from choreo.broker.rabbitmq.confirms import RabbitLine
from choreo.broker.rabbitmq.encoder import Encoder
from choreo.events.message import Message
from tests.servers import rabbitmq_vhost, require_rabbitmq

PLAIN = Exchange("cloudevents", "topic", durable=True)


class OrderPlaced(Event):
    number: int = 0


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[str]:
    with rabbitmq_vhost(require_rabbitmq()) as url:
        yield url


@pytest.fixture
def app(rabbitmq: str, namespace: str) -> Iterator[Service]:
    settings = {"choreo_namespace": namespace, "choreo_store_url": "memory://"}
    settings["choreo_cloudevents_exchange"] = f"{namespace}.{PLAIN.name}"
    app = Service("web", broker=rabbitmq, config=settings)
    yield app
    app.publisher.close()


class Listener:
    """A queue of a program that knows nothing of choreo, at an exchange."""

    def __init__(self, app: Service, exchange: Exchange, **arguments: Any) -> None:
        self._connection = app.connection_for_read()
        self.name = f"{exchange.name}.listener"
        queue = Queue(self.name, exchange, "order.*", queue_arguments=arguments)
        self._queue = queue(self._connection.channel())
        self._queue.declare()

    def heard(self) -> list[Any]:
        found = []
        while message := self._queue.get(no_ack=True):
            found.append(message)
        return found


def plain_listener(app: Service, **arguments: Any) -> Listener:
    exchange = Exchange(app.conf.choreo_cloudevents_exchange, "topic", durable=True)
    return Listener(app, exchange, **arguments)


def test_each_event_is_in_both_exchanges_when_the_call_returns(app: Service) -> None:
    own, plain = Listener(app, app.runtime.topology.exchange), plain_listener(app)

    sent = app.publisher.announce([app.publish(OrderPlaced(), subject=f"ORD-{number}") for number in range(50)])

    messages = plain.heard()
    assert len(own.heard()) == len(messages) == 100
    assert [json.loads(message.body) for message in messages] == 2 * [envelope.to_wire() for envelope in sent]
    assert {message.content_type for message in messages} == {"application/cloudevents+json"}
    assert {message.properties["delivery_mode"] for message in messages} == {2}
    assert not app.publisher.unheard


def test_that_nobody_listens_for_plain_events_is_no_matter_and_that_no_handler_does_is_told(app: Service) -> None:
    app.publish(OrderPlaced())

    assert app.publisher.unheard == {"order.placed": 1}


def test_an_event_is_not_confirmed_until_both_are(app: Service) -> None:
    own = Listener(app, app.runtime.topology.exchange)
    plain = plain_listener(app, **{"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"})
    app.publish(OrderPlaced(number=1))

    with pytest.raises(PublishError, match="nack") as caught:
        app.publish(OrderPlaced(number=2))

    (unconfirmed,) = caught.value.unconfirmed
    plain.heard()
    app.publisher.announce([unconfirmed])
    assert [json.loads(message.body)["id"] for message in plain.heard()] == [unconfirmed.id]
    # The same event twice, which handlers handle once.
    assert len(own.heard()) == 3


@pytest.mark.parametrize("answer", ["ack", "nack"])
def test_the_answer_to_its_second_message_counts_whichever_comes_first(answer: str) -> None:
    event = Post(Message("choreo.events", "order.placed", b"[[{}],{},{}]"))
    line = RabbitLine(Mock(transport_options={}), Exchange("choreo.events"), PLAIN)
    line._outlet = Mock(encoder=Encoder(1, 131072))
    line._publish(event)

    line._on_ack(2, False)
    assert event.pending
    getattr(line, f"_on_{answer}")(1, False)

    assert event.confirmed is (answer == "ack")
    assert not event.pending


def test_a_message_to_one_queue_is_no_event_and_stays_there(app: Service) -> None:
    own, plain = Listener(app, app.runtime.topology.exchange), plain_listener(app)

    app.publisher.send([Message("", own.name, b"[[], {}, {}]")])

    assert (len(own.heard()), len(plain.heard())) == (1, 0)


def test_a_refusal_of_the_only_event_does_not_concern_others(app: Service) -> None:
    """RabbitMQ answers neither of its two messages then. Taken for two events, it would be sent again for ever."""
    app.publish(OrderPlaced())
    line = app.publisher._lines._idle[0]
    assert isinstance(line, RabbitLine)
    events = [Post(Message("choreo.events", "order.placed", b"{}")) for _ in range(2)]
    error = amqp.PreconditionFailed("message size 9 is larger than configured max size 8", (60, 40))

    line._note(events[0])
    line._posts = events[:1]
    assert not line.concerns_one(error)
    line._posts = events
    assert line.concerns_one(error)
