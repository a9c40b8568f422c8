"""Deliveries of RabbitMQ that are taken from the buffer: the same messages as py-amqp's, however the frames come."""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from struct import pack
from typing import Any
from unittest.mock import patch

import amqp
import pytest
from amqp.method_framing import frame_writer
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st

from choreo.broker.incoming import UNCOUNTED
from choreo.broker.queue import HandlerQueue
from choreo.broker.rabbitmq import consuming
from choreo.broker.rabbitmq.connection import Bell, RabbitConnection
from choreo.broker.rabbitmq.consuming import ConsumingChannel
from choreo.broker.rabbitmq.hooks import ConsumerHooks
from choreo.broker.rabbitmq.own_messages import own_event_in
from choreo.broker.rabbitmq.reading import PROPERTIES, ReadingConnection
from choreo.broker.rabbitmq.transport import Buffered
from choreo.events.envelope import Envelope
from choreo.events.lineage import Lineage
from choreo.events.message import Message
from tests.unit.events import OrderPlaced, envelope
from tests.unit.test_reading import EVENTS, OTHERS, deliver, header


@pytest.fixture(autouse=True, scope="module")
def long_slices() -> Iterator[None]:
    """A busy machine may be slow: a slice shall end with its last message."""
    with patch.object(consuming, "SLICE_SECONDS", 600.0):
        yield


QUEUE, TAG, NUMBER = "staging.payment.charge", "tag", 3
ORDER = envelope(OrderPlaced(customer_id="Zoë"), subject="ORD-1", id="e-1")


class Transport:
    """The buffer of a connection, and what is written to it. Nothing comes from a socket."""

    def __init__(self) -> None:
        self.buffer, self.at, self.written, self.connected = b"", 0, b"", True

    holds_frame = Buffered.holds_frame
    _missing = Buffered._missing
    read_frame = Buffered.read_frame

    def fill(self) -> None:
        raise TimeoutError

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def having_timeout(self, _: Any) -> Any:
        return nullcontext()


class Loop:
    """An event loop that is turned by hand."""

    def __init__(self) -> None:
        self.readers: dict[Any, Any] = {}

    def add_reader(self, fd: Any, callback: Any) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: Any) -> None:
        self.readers.pop(fd, None)


class Hooks(ConsumerHooks):
    """Notes what it is told, and delivers what it shall."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[int]]] = []
        self.back: list[int] = []
        self.mine: list[int] = []
        self.delivers = False

    def before_delivery(self, taken: Any, following: Any) -> None:
        self.seen.append((taken.tag, [one.tag for one in following]))

    def deliver(self, taken: Any) -> bool:  # noqa: ARG002
        return self.delivers

    def acks(self, tag: int) -> bool:
        return tag in self.mine

    def returned(self, back: Any) -> None:
        self.back += [taken.tag for taken in back]


class Wire:
    """A connection with one channel, and RabbitMQ's end of it."""

    def __init__(self, kind: type[Any] = RabbitConnection, *, has_loop: bool = True) -> None:
        self.connection: Any = kind("localhost")
        self.transport = self.connection._transport = Transport()
        self.connection.on_inbound_frame = self.connection.frame_handler_cls(
            self.connection, self.connection.on_inbound_method
        )
        self.connection.frame_writer = frame_writer(self.connection, self.transport)
        self.channel: Any = self.connection.Channel(self.connection, NUMBER)
        self.got: list[Any] = []
        self.hooks = Hooks()
        if isinstance(self.connection, RabbitConnection) and has_loop:
            self.connection._bell = Bell(Loop(), self.connection._work)
            self.channel.hooks = self.hooks
            self.channel.serve(QUEUE)
        self.consume(QUEUE, TAG)
        self.transport.written = b""

    def consume(self, queue: str, tag: str, **options: Any) -> None:
        self.channel.basic_consume(queue, tag, callback=self.got.append, nowait=True, **options)

    def comes(self, raw: bytes) -> None:
        self.transport.buffer = self.transport.buffer[self.transport.at :] + raw
        self.transport.at = 0

    def turn(self) -> None:
        self.connection._work()

    def drained(self) -> list[Any]:
        """Everything that comes, as a program without an event loop gets it."""
        while self.transport.holds_frame:
            self.connection.blocking_read()
        return self.got

    @property
    def answers(self) -> list[tuple[str, int, int]]:
        """What was written: the method, the tag, and the bits."""
        found, left = [], self.transport.written
        while left:
            assert left[0] == 1, "only methods are answers"
            size = int.from_bytes(left[3:7])
            payload, left = left[7 : 7 + size], left[8 + size :]
            name = {80: "ack", 90: "reject", 120: "nack"}[int.from_bytes(payload[2:4])]
            found.append((name, int.from_bytes(payload[4:12]), payload[12]))
        self.transport.written = b""
        return found


def frame(kind: int, payload: bytes, channel: int = NUMBER) -> bytes:
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def delivered(tag: int, content: tuple[bytes, bytes], consumer: str = TAG, *, redelivered: bool = False) -> bytes:
    args = dumps("sLbss", (consumer, tag, redelivered, "choreo.events", "order.placed"))
    head, body = content
    return frame(1, b"\x00\x3c\x00\x3c" + args) + frame(2, head) + (frame(3, body) if body else b"")


def content_of(message: Message) -> tuple[bytes, bytes]:
    """The payloads with which choreo publishes this message."""
    made = amqp.Message(
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        application_headers=message.headers,
        delivery_mode=2,
    )
    return header(bytes(made._serialize_properties()), message.body), message.body


def event(**about: Any) -> Message:
    return Message.carrying(ORDER, exchange="choreo.events", routing_key="order.placed", **about)


def as_delivered(message: Any) -> dict[str, Any]:
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    return {"body": body, "properties": message.properties, "info": message.delivery_info}


TEXTS = st.text(st.characters(codec="utf-8"), max_size=300)
ENVELOPES = st.builds(
    Envelope,
    id=TEXTS.filter(bool),
    type=st.just("order.placed"),
    source=TEXTS.filter(bool),
    subject=TEXTS,
    time=st.just(ORDER.time),
    correlation_id=st.just("story"),
    data=st.dictionaries(TEXTS, TEXTS | st.integers(-(2**60), 2**60) | st.none() | st.booleans(), max_size=4),
)
LINEAGES = st.builds(Lineage, st.none() | TEXTS, st.none() | TEXTS)
MESSAGES = st.builds(
    lambda envelope, lineage, retries: Message.carrying(
        envelope, exchange="choreo.events", routing_key="order.placed", lineage=lineage, retries=retries
    ),
    ENVELOPES,
    LINEAGES,
    st.sampled_from([0, 0, 0, 1, 7]),
)


def prepared(message: Any) -> dict[str, Any]:
    """What the handler's queue makes of a delivery, or why it refuses it."""
    try:
        HandlerQueue(QUEUE, handler="payment.charge").make_runnable(message)
    except Exception as error:
        return {"error": str(error)}
    return as_delivered(message)


@given(message=MESSAGES, redelivered=st.booleans())
def test_the_queue_gets_the_same_of_a_taken_message_as_of_py_amqps(message: Message, redelivered: bool) -> None:
    raw = delivered(1, content_of(message), redelivered=redelivered)
    taking, plain = Wire(), Wire(ReadingConnection)

    for wire in (taking, plain):
        wire.comes(raw)
    taking.turn()
    (one,), (other,) = taking.got, plain.drained()

    assert prepared(one) == prepared(other)


def test_an_event_that_choreo_announces_is_read_without_py_amqp() -> None:
    for lineage in (Lineage(), Lineage("root", None), Lineage("root", "parent")):
        found = own_event_in(*content_of(event(lineage=lineage)))

        assert found is not None
        assert found.envelope == ORDER
        assert found.lineage == lineage


@pytest.mark.parametrize("number", range(len(content_of(event())[0])))
def test_a_message_with_another_byte_is_never_read_as_something_else(number: int) -> None:
    head, body = content_of(event(lineage=Lineage("root", "parent")))
    other = head[:number] + bytes([head[number] ^ 1]) + head[number + 1 :]
    taking, plain = Wire(), Wire(ReadingConnection)

    found = own_event_in(other, body)

    # A text that differs is a text. All else is left to py-amqp, which says what it is.
    if found is not None and number >= 12:
        for wire in (taking, plain):
            wire.comes(delivered(1, (other, body)))
        taking.turn()
        assert prepared(taking.got[0]) == prepared(plain.drained()[0])


@pytest.mark.parametrize(
    "about", [{"retries": 1}, {"headers": {"x-delivery-count": 1}}, {"headers": {"task": "other"}}]
)
def test_any_other_message_is_left_to_py_amqp(about: dict[str, Any]) -> None:
    message = event(retries=about.get("retries", 0))
    message.headers.update(about.get("headers", {}))

    assert own_event_in(*content_of(message)) is None


def test_a_message_that_came_back_is_left_to_py_amqp() -> None:
    wire = Wire()
    wire.comes(delivered(1, content_of(event()), redelivered=True) + delivered(2, content_of(event())))

    while wire.connection._next():
        pass

    assert [taken.event is None for taken in wire.channel.arrived] == [True, False]


@pytest.mark.parametrize("name", sorted(EVENTS | OTHERS))
def test_what_py_amqp_cannot_read_is_read_as_before(name: str) -> None:
    taking, plain = Wire(), Wire(ReadingConnection)
    raw = delivered(1, (header((EVENTS | OTHERS)[name], b"odd"), b"odd")) + delivered(2, content_of(event()))
    for wire in (taking, plain):
        wire.comes(raw)

    taking.turn()

    assert [as_delivered(one) for one in taking.got[:1]] == [as_delivered(one) for one in plain.drained()[:1]]
    assert len(taking.got) == len(plain.got) == 2
    assert name not in EVENTS or PROPERTIES in taking.got[0].properties["application_headers"]


def test_an_address_that_is_no_text_is_read_as_before() -> None:
    taking, plain = Wire(), Wire(ReadingConnection)
    head, body = content_of(event(retries=1))
    raw = frame(1, deliver(TAG.encode(), b"\xff", b"\xfe")) + frame(2, head) + frame(3, body)
    for wire in (taking, plain):
        wire.comes(raw)

    taking.turn()

    assert [as_delivered(one) for one in taking.got] == [as_delivered(one) for one in plain.drained()]


@given(cuts=st.sets(st.integers(0, 2500), max_size=12))
def test_frames_may_be_cut_at_any_byte(cuts: set[int]) -> None:
    wire = Wire()
    wire.consume("staging.payment", "other")
    wire.transport.written = b""
    large = b"x" * 500
    raw = b"".join(
        [
            delivered(1, content_of(event())),
            delivered(2, content_of(event()), "other"),
            frame(8, b"", 0),
            delivered(3, content_of(event(retries=1))),
            # A body of several frames.
            frame(1, deliver(TAG.encode())[:-1] + b"d"),
            frame(2, header(content_of(event())[0][12:], large)),
            frame(3, large[:200]),
            frame(3, large[200:]),
            delivered(5, (header(content_of(event())[0][12:], b""), b"")),
            delivered(6, content_of(event())),
        ]
    )
    places = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]

    for start, end in pairwise(places):
        wire.comes(raw[start:end])
        for _ in range(8):
            wire.turn()

    bodies = [len(as_delivered(one)["body"]) for one in wire.got if one.delivery_info["consumer_tag"] == TAG]
    assert bodies == [len(event().body), len(event().body), 500, 0, len(event().body)]
    assert sum(one.delivery_info["consumer_tag"] == "other" for one in wire.got) == 1
    assert not wire.transport.holds_frame


def test_the_hooks_see_everything_that_has_arrived_before_the_first_delivery() -> None:
    wire = Wire()
    wire.comes(b"".join(delivered(tag, content_of(event(retries=tag % 2))) for tag in range(1, 5)))

    wire.turn()

    assert wire.hooks.seen[0] == (1, [2, 3, 4])
    assert [one.delivery_info["delivery_tag"] for one in wire.got] == [1, 2, 3, 4]


def test_acks_of_a_slice_are_one_frame() -> None:
    wire = Wire()
    wire.got = Acking(wire.channel)
    wire.comes(b"".join(delivered(tag, content_of(event())) for tag in range(1, 5)))
    wire.channel.callbacks[TAG] = wire.got.append

    wire.turn()

    assert wire.answers == [("ack", 4, 1)]


class Acking(list[Any]):
    """A consumer that acks each message as it gets it."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def append(self, message: Any) -> None:
        self.channel.basic_ack(message.delivery_info["delivery_tag"])


def test_an_ack_outside_of_a_slice_is_written_at_once() -> None:
    wire = Wire()
    wire.comes(delivered(1, content_of(event())) + delivered(2, content_of(event())))
    wire.turn()

    wire.channel.basic_ack(2)
    assert wire.answers == [("ack", 2, 0)]
    wire.channel.basic_ack(1)

    assert wire.answers == [("ack", 1, 1)]


def test_after_an_ack_that_could_not_be_written_the_connection_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()
    wire.comes(delivered(1, content_of(event())))
    wire.turn()

    def write(_: Any) -> None:
        raise TimeoutError("the broker takes nothing")

    monkeypatch.setattr(wire.transport, "write", write)

    with pytest.raises(TimeoutError):
        wire.channel.basic_ack(1)

    assert not wire.transport.connected


def test_the_hooks_may_ack_later() -> None:
    wire = Wire()
    wire.hooks.mine = [1]
    wire.comes(delivered(1, content_of(event())) + delivered(2, content_of(event())))
    wire.turn()

    wire.channel.basic_ack(1)
    wire.channel.basic_ack(2)
    assert wire.answers == [("ack", 2, 0)]
    wire.channel.acks.ack(1)
    wire.channel.acks.flush()

    assert wire.answers == [("ack", 1, 1)]


def test_deliveries_that_need_no_ack_do_not_stop_the_prefix() -> None:
    wire = Wire()
    wire.consume("staging.news", "news", no_ack=True)
    wire.transport.written = b""
    wire.comes(delivered(1, content_of(event()), "news") + delivered(2, content_of(event())))
    for _ in range(3):
        wire.turn()

    wire.channel.basic_ack(2)

    assert wire.answers == [("ack", 2, 1)]


def test_a_cancelled_consumer_gives_back_what_was_not_delivered() -> None:
    wire = Wire()
    wire.consume("staging.payment.refund", "refund")
    wire.comes(b"".join(delivered(tag, content_of(event())) for tag in (1, 2)))
    while wire.connection._next():
        pass
    wire.transport.written = b""

    wire.channel._stop_taking(TAG)

    assert wire.hooks.back == [1, 2]
    assert wire.answers == [("nack", 1, 2), ("nack", 2, 2)]
    assert not wire.channel.deliver_one()


def test_a_lost_connection_acks_and_delivers_nothing_any_more() -> None:
    wire = Wire()
    wire.comes(b"".join(delivered(tag, content_of(event())) for tag in (1, 2, 3)))
    while wire.connection._next():
        pass
    wire.channel.deliver_one()

    wire.channel.collect()
    wire.channel.acks.ack(1)
    wire.channel.acks.flush()

    assert wire.hooks.back == [2, 3]
    assert wire.answers == []
    assert not wire.channel.deliver_one()
    with pytest.raises(amqp.RecoverableConnectionError):
        wire.channel.basic_ack(1)


def test_a_channel_that_is_opened_again_answers_no_delivery_of_before() -> None:
    wire = Wire()
    wire.comes(b"".join(delivered(tag, content_of(event())) for tag in (1, 2)))
    wire.turn()
    wire.channel.open = lambda: None

    old = wire.channel.acks
    wire.channel._do_revive()
    old.ack(1)
    old.flush()

    assert wire.answers == []


def test_an_uncounted_return_is_a_nack() -> None:
    wire = Wire()

    wire.channel.basic_reject(1, requeue=UNCOUNTED)
    wire.channel.basic_reject(2, requeue=True)
    wire.channel.basic_reject(3, requeue=False)

    assert wire.answers == [("nack", 1, 2), ("reject", 2, 1), ("reject", 3, 0)]


def test_without_an_event_loop_and_for_queues_that_are_not_served_it_is_py_amqps_channel() -> None:
    for wire in (Wire(has_loop=False), Wire(ReadingConnection)):
        wire.comes(delivered(1, content_of(event())))

        wire.drained()
        wire.channel.basic_ack(1)

        assert [type(one) for one in wire.got] == [amqp.Message]
        assert wire.answers == [("ack", 1, 0)]
    assert not isinstance(wire.channel, ConsumingChannel) or not wire.channel.arrived
