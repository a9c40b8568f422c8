"""
Batches on a real RabbitMQ: larger than what the sockets hold, and with a return, a refusal or a cut in the middle.

Each test runs twice: with choreo's encoder, and with py-amqp's, which takes the messages that choreo's cannot write.
"""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from kombu import Queue

from choreo import Event, PublishError, Service
from choreo.broker.lines import Post
from choreo.broker.rabbitmq import confirms
from choreo.broker.rabbitmq.confirms import RabbitLine
from choreo.broker.rabbitmq.encoder import Encoder
from choreo.broker.rabbitmq.outlet import Outlet
from choreo.events.message import Message
from tests.chaos.proxy import Proxy
from tests.contract.tls import Terminator, certificate_in
from tests.servers import rabbitmq_vhost, require_rabbitmq

BLOB = "ä" * 60_000


class OrderPlaced(Event):
    number: int = 0
    text: str = ""


class OrderForgotten(Event):
    """Nobody listens to it."""

    number: int = 0
    text: str = ""


class Ear:
    """A queue that hears each OrderPlaced."""

    def __init__(self, app: Service, **arguments: Any) -> None:
        self._connection = app.connection_for_read()
        topology = app.runtime.topology
        queue = Queue(topology.name_of("ear"), topology.exchange, "order.placed", queue_arguments=arguments)
        self._queue = queue(self._connection.channel())
        self._queue.declare()
        self.name = queue.name

    def heard(self) -> list[Any]:
        found = []
        while message := self._queue.get(no_ack=True):
            found.append(message)
        return found

    def numbers(self) -> list[int]:
        return sorted(message.payload[0][0]["data"]["number"] for message in self.heard())

    def close(self) -> None:
        self._connection.release()


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[str]:
    with rabbitmq_vhost(require_rabbitmq()) as url:
        yield url


@pytest.fixture(autouse=True, params=["choreo's encoder", "py-amqp's encoder"])
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "py-amqp's encoder":
        monkeypatch.setattr(Encoder, "frames", lambda *_, **__: None)
    return str(request.param)


@pytest.fixture
def proxy(rabbitmq: str) -> Iterator[Proxy]:
    url = urlsplit(rabbitmq)
    with Proxy(url.hostname or "127.0.0.1", url.port or 5672) as proxy:
        yield proxy


@pytest.fixture
def app(rabbitmq: str, proxy: Proxy, namespace: str) -> Iterator[Service]:
    """Publishes through the proxy."""
    url = urlsplit(rabbitmq)
    far = f"{url.scheme}://{url.username or ''}:{url.password or ''}@127.0.0.1:{proxy.port}{url.path}"
    app = Service("web", broker=far, config={"choreo_namespace": namespace, "choreo_store_url": "memory://"})
    yield app
    app.publisher.close()


@pytest.fixture
def near(rabbitmq: str, namespace: str) -> Service:
    """The same platform without the proxy."""
    return Service("web", broker=rabbitmq, config={"choreo_namespace": namespace, "choreo_store_url": "memory://"})


@pytest.fixture
def ear(near: Service) -> Iterator[Ear]:
    ear = Ear(near)
    yield ear
    ear.close()


def test_a_batch_that_is_larger_than_the_buffers_of_the_sockets_arrives(app: Service, ear: Ear) -> None:
    assert app.publish_many(OrderPlaced(number=number, text=BLOB) for number in range(200)) == 200

    assert ear.numbers() == list(range(200))


def test_large_returns_while_a_large_batch_is_written_block_neither_side(app: Service, ear: Ear) -> None:
    events = [
        kind(number=number, text=BLOB) for number in range(100) for kind in (OrderForgotten, OrderPlaced)
    ]  # RabbitMQ sends each event back whole that nobody hears

    app.publish_many(events)

    assert app.publisher.unheard == {"order.forgotten": 100}
    assert ear.numbers() == list(range(100))


def test_a_body_that_is_larger_than_a_frame_arrives_whole(app: Service, ear: Ear) -> None:
    app.publish(OrderPlaced())
    line = app.publisher._lines._idle[0]
    assert isinstance(line, RabbitLine)
    frame_max = line._channel.connection.frame_max
    sizes = [frame_max - 9, frame_max - 8, frame_max - 7, frame_max, frame_max + 1, 2 * frame_max + 5]
    # No text, which py-amqp would decode.
    bodies = [bytes([240 + place]) * size for place, size in enumerate(sizes)]
    ear.heard()

    app.publisher.send([Message("", ear.name, body, {"id": str(place)}) for place, body in enumerate(bodies)])

    assert [message.body for message in ear.heard()] == bodies


def test_what_returns_in_the_middle_of_a_batch_is_counted_and_named(app: Service, ear: Ear) -> None:
    known = [app.publisher.message_for(app.publish(OrderPlaced(number=number))) for number in (1, 2)]
    ear.heard()
    lost = Message("", "web.nobody", b"[[], {}, {}]", {"id": "1", "argsrepr": "order.placed ORD-9"})
    unheard = app.publisher.message_for(app.publish(OrderForgotten()))

    with pytest.raises(PublishError, match=r"1 of 4 messages, such as 'order.placed ORD-9': there is no queue") as e:
        app.publisher.send([known[0], lost, unheard, known[1]])

    assert e.value.unconfirmed == (lost,)
    assert not e.value.is_outage
    assert ear.numbers() == [1, 2]
    assert app.publisher.unheard == {"order.forgotten": 2}


def test_what_a_full_queue_refuses_in_a_batch_is_named_and_the_rest_is_there(app: Service, near: Service) -> None:
    ear = Ear(near, **{"x-queue-type": "classic", "x-max-length": 3, "x-overflow": "reject-publish"})

    with pytest.raises(PublishError, match=r"4 of 7 messages.*nack") as caught:
        app.publish_many(OrderPlaced(number=number) for number in range(7))

    confirmed = [envelope.data["number"] for envelope in caught.value.confirmed]
    assert len(confirmed) == 3
    assert not caught.value.is_outage
    assert ear.numbers() == confirmed
    ear.close()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_in_the_middle_of_a_batch_costs_no_event_and_changes_no_id(
    direction: Any, app: Service, ear: Ear, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.publish(OrderPlaced(number=-1))
    ear.heard()
    flush, flushes = Outlet.flush, 0

    def flush_and_cut(self: Outlet, seconds: float) -> None:
        nonlocal flushes
        flush(self, seconds)
        flushes += 1
        if flushes == 3:
            proxy.cut_midway(direction)

    monkeypatch.setattr(Outlet, "flush", flush_and_cut)
    announced = app._announce([OrderPlaced(number=number, text="x" * 3000) for number in range(200)], None, None)

    heard = ear.heard()
    assert {message.headers["id"] for message in heard} == {envelope.id for envelope in announced}
    assert sorted({message.payload[0][0]["data"]["number"] for message in heard}) == list(range(200))
    assert proxy.connections == 2


def test_no_more_messages_than_the_window_are_unanswered(
    app: Service, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirms, "WINDOW", 20)
    message = app.publisher.message_for(app.publish(OrderPlaced()))
    line = app.publisher._lines._idle[0]
    assert isinstance(line, RabbitLine)
    note, most = line._note, 0

    def note_and_count(post: Post) -> None:
        nonlocal most
        note(post)
        most = max(most, len(line._unanswered))

    monkeypatch.setattr(line, "_note", note_and_count)
    app.publisher.send([message] * 200)

    assert len(ear.heard()) == 201
    assert 10 < most <= 20


def test_a_message_that_only_pyamqp_can_write_keeps_its_place_among_the_others(app: Service, ear: Ear) -> None:
    headers: list[dict[str, Any]] = [{"id": "0"}, {"id": "1", "table": {"deep": [{"er": b"x"}]}}, {"id": "2"}]

    app.publisher.send([Message("", ear.name, b"{}", table) for table in headers])

    assert [message.headers["id"] for message in ear.heard()] == ["0", "1", "2"]


def test_large_batches_and_returns_travel_through_tls(
    rabbitmq: str, near: Service, ear: Ear, namespace: str, tmp_path: Path
) -> None:
    certificate, key = certificate_in(tmp_path)
    url = urlsplit(rabbitmq)
    terminator = Terminator(certificate, key, url.hostname or "127.0.0.1", url.port or 5672)
    far = f"amqps://{url.username or ''}:{url.password or ''}@127.0.0.1:{terminator.port}{url.path}"
    settings = {"choreo_namespace": namespace, "choreo_store_url": "memory://"}
    trust = {"ca_certs": str(certificate), "cert_reqs": ssl.CERT_REQUIRED}
    app = Service("web", broker=far, broker_use_ssl=trust, config=settings)

    app.publish_many(kind(number=number, text=BLOB) for number in range(40) for kind in (OrderForgotten, OrderPlaced))

    assert app.publisher.unheard == {"order.forgotten": 40}
    assert ear.numbers() == list(range(40))
    app.publisher.close()
    terminator.close()
