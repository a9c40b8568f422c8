"""Frames that py-amqp cannot read: they reach the queue, and the connection goes on."""

from base64 import b64decode
from struct import pack
from typing import Any

import pytest
from amqp.method_framing import frame_handler
from amqp.serialization import loads
from hypothesis import given
from hypothesis import strategies as st

from choreo.broker.queue import HandlerQueue
from choreo.broker.rabbitmq.reading import PROPERTIES, reading_frames
from choreo.events.message import JSON, Message
from tests.unit.test_queue import GOOD, Channel


class Client:
    """As much of a connection as reads frames."""

    bytes_recv = 0


def short(text: bytes) -> bytes:
    return pack("B", len(text)) + text


def table(*entries: tuple[bytes, bytes]) -> bytes:
    inner = b"".join(short(name) + value for name, value in entries)
    return pack(">I", len(inner)) + inner


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return b"S" + pack(">I", len(raw)) + raw


def nested(kind: bytes, depth: int) -> bytes:
    value = kind + pack(">I", 0)
    for _ in range(depth):
        inner = short(b"a") + value if kind == b"F" else value
        value = kind + pack(">I", len(inner)) + inner
    return value


def properties(*entries: tuple[bytes, bytes], content_type: bytes = JSON.encode(), encoding: bytes = b"utf-8") -> bytes:
    own = [(b"task", text("choreo.event")), (b"retries", b"I" + pack(">i", 0))]
    return pack(">H", 0x8000 | 0x4000 | 0x2000) + short(content_type) + short(encoding) + table(*own, *entries)


def header(props: bytes, body: bytes = GOOD.body) -> bytes:
    return pack(">HHQ", 60, 0, len(body)) + props


def deliver(tag: bytes = b"tag", exchange: bytes = b"choreo.events", key: bytes = b"order.placed") -> bytes:
    return pack(">HH", 60, 60) + short(tag) + pack(">Qb", 1, 0) + short(exchange) + short(key)


def received(props: bytes, frames: Any = reading_frames, body: bytes = GOOD.body) -> Any:
    got: list[Any] = []
    on_frame = frames(Client(), lambda *all_of_it: got.append(all_of_it[3]))
    on_frame((1, 1, deliver()))
    on_frame((2, 1, header(props, body)))
    on_frame((3, 1, body))
    (message,) = got
    message.delivery_info = {"delivery_tag": "t-1", "exchange": "", "routing_key": "q"}
    return message


MILLISECONDS = pack(">Q", 1_700_000_000_000)
#: Messages that hold an event even so.
EVENTS = {
    "milliseconds": properties((b"at", b"T" + MILLISECONDS)),
    "the last timestamp": properties((b"at", b"T" + pack(">Q", 2**63 - 1))),
    "more than the last timestamp": properties((b"at", b"T" + pack(">Q", 2**64 - 1))),
    "timestamp in a table": properties((b"in", b"F" + table((b"at", b"T" + MILLISECONDS)))),
    "deep tables": properties((b"deep", nested(b"F", 5000))),
    "deep arrays": properties((b"deep", nested(b"A", 5000))),
}
#: Messages that hold none.
OTHERS = {
    "content type": properties(content_type=b"\xff\xfe"),
    "long content type": properties(content_type=b"\xff" * 255),
    "encoding": properties((b"at", b"T" + MILLISECONDS), (b"task", text(b"\xff")), encoding=b"\xff"),
    "unknown type": properties((b"odd", b"?" + b"1234")),
    "length beyond the end": properties()[:-20],
    "no flags": b"",
    "nonsense": b"\xff" * 40,
}


def parked_or_run(message: Any) -> tuple[list[Any], list[Any]]:
    parked: list[Any] = []
    ran: list[Any] = []
    channel = Channel()
    queue = HandlerQueue("q", handler="payment.charge", park=lambda *all_of_it: parked.append(all_of_it))
    queue.bind(channel).consume("tag", ran.append)
    message.channel = channel
    channel.on_delivery(message)
    return parked, ran


@pytest.mark.parametrize("name", EVENTS | OTHERS)
def test_py_amqp_alone_cannot_read_it(name: str) -> None:
    with pytest.raises(Exception):  # noqa: B017 - a dozen types
        received((EVENTS | OTHERS)[name], frame_handler)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_with_a_header_that_py_amqp_cannot_read_is_handled(name: str) -> None:
    parked, ran = parked_or_run(received(EVENTS[name]))

    assert len(ran) == 1
    assert not parked


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_parked_with_its_properties_as_they_came(name: str) -> None:
    parked, ran = parked_or_run(received(OTHERS[name]))

    ((_, message, _),) = parked
    assert not ran
    assert message.body == GOOD.body
    assert b64decode(message.headers[PROPERTIES]) == OTHERS[name]
    assert Message.from_json(message.to_json()).body == GOOD.body


@given(st.binary(max_size=80), st.integers(0, 90))
def test_whatever_the_properties_are_the_message_arrives(noise: bytes, at: int) -> None:
    good = properties((b"at", b"T" + MILLISECONDS))
    received(good[:at] + noise + good[at + len(noise) :])


def test_an_address_that_is_no_utf_8_is_delivered() -> None:
    got: list[Any] = []

    def callback(_channel: int, _method: Any, args: bytes, content: Any) -> None:

        got.append((loads("sLbss", args, 4)[0], content))

    on_frame = reading_frames(Client(), callback)
    on_frame((1, 1, deliver(key=b"order.\xff")))
    on_frame((2, 1, header(properties(), b"")))

    ((address, _),) = got
    assert address == ["tag", 1, False, "choreo.events", "order.\\xff"]


def test_an_error_of_the_program_is_raised_and_not_repeated() -> None:
    calls: list[int] = []

    def callback(*_: Any) -> None:
        calls.append(1)
        b"\xff".decode()

    on_frame = reading_frames(Client(), callback)
    on_frame((1, 1, deliver()))
    with pytest.raises(UnicodeDecodeError):
        on_frame((2, 1, header(properties(), b"")))

    assert len(calls) == 1


def test_a_header_whose_name_is_bytes_can_be_kept() -> None:
    message = Message("", "q", b"x", {b"\xff": {b"\xfe": [b"\xfd"]}})  # type: ignore[dict-item]

    assert Message.from_json(message.to_json()).headers == {"b'\\xff'": {"b'\\xfe'": ["b'\\xfd'"]}}
