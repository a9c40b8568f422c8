"""The frames of a message on RabbitMQ: py-amqp writes the same bytes, and reads from them what went in."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps, loads
from hypothesis import given
from hypothesis import strategies as st

from choreo.broker.rabbitmq.encoder import Encoder
from choreo.broker.rabbitmq.transport import BufferedTCP
from choreo.events.message import task_headers

CHANNEL, FRAME_MAX = 7, 8192

short_texts = st.text(max_size=255).filter(lambda text: len(text.encode("utf-8", "surrogatepass")) <= 255)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(max_size=40)
)
values = scalars | st.lists(scalars, max_size=4)
tables = st.none() | st.dictionaries(short_texts, values, max_size=8)


class Color(StrEnum):
    RED = "red"


def ours(
    headers: dict[str, Any] | None = None,
    body: bytes = b"{}",
    exchange: str = "choreo.events",
    routing_key: str = "order.placed",
    types: tuple[str, str] = ("application/json", "utf-8"),
    *,
    mandatory: bool = True,
    frame_max: int = FRAME_MAX,
) -> bytes | None:
    encoder = Encoder(CHANNEL, frame_max)
    made = [encoder.frames(exchange, routing_key, body, headers, *types, mandatory=mandatory) for _ in range(2)]
    assert made[0] == made[1], "what it remembers of the first one is the same"
    return made[0]


def theirs(
    headers: dict[str, Any] | None,
    body: bytes,
    exchange: str,
    routing_key: str,
    types: tuple[str, str],
    *,
    mandatory: bool,
    frame_max: int,
) -> bytes:
    written: list[bytes] = []
    connection = SimpleNamespace(frame_max=frame_max, bytes_sent=0)
    write = frame_writer(connection, SimpleNamespace(write=lambda data: written.append(bytes(data))))
    message = amqp.Message(
        body, content_type=types[0], content_encoding=types[1], application_headers=headers, delivery_mode=2
    )
    address = dumps("Bssbb", (0, exchange, routing_key, mandatory, False))
    write(1, CHANNEL, spec.Basic.Publish, address, message)
    return b"".join(written)


def read_by_amqp(frames: bytes) -> tuple[list[Any], amqp.Message]:
    """The arguments of basic.publish and the message, as py-amqp reads them from our transport."""
    transport, read = BufferedTCP("127.0.0.1:1"), []
    transport.buffer = frames
    connection = SimpleNamespace(bytes_recv=0)
    methods = frozenset([spec.Basic.Publish])
    on_frame = frame_handler(connection, lambda *method: read.append(method), content_methods=methods)
    while transport.holds_frame:
        on_frame(transport.read_frame())
    assert transport.at == len(frames)
    ((channel, method, args, message),) = read
    assert (channel, method) == (CHANNEL, spec.Basic.Publish)
    return loads("Bssbb", args, 4)[0], message


@given(
    tables,
    st.binary(max_size=20_000),
    short_texts,
    short_texts,
    st.tuples(short_texts, short_texts),
    st.booleans(),
    st.sampled_from([FRAME_MAX, 9000, 131072]),
)
def test_pyamqp_writes_the_same_bytes_and_reads_what_went_in(
    headers: dict[str, Any] | None,
    body: bytes,
    exchange: str,
    routing_key: str,
    types: tuple[str, str],
    mandatory: bool,
    frame_max: int,
) -> None:
    frames = ours(headers, body, exchange, routing_key, types, mandatory=mandatory, frame_max=frame_max)

    assert frames is not None
    assert frames == theirs(headers, body, exchange, routing_key, types, mandatory=mandatory, frame_max=frame_max)
    address, message = read_by_amqp(frames)
    assert address == [0, exchange, routing_key, mandatory, False]
    assert (message.body or b"") == body
    expected = {"content_type": types[0], "content_encoding": types[1], "delivery_mode": 2}
    assert message.properties == expected | ({} if headers is None else {"application_headers": headers})


def test_the_headers_of_an_event_are_written_here() -> None:
    headers = task_headers("choreo.event", "1", root_id="2", parent_id=None, argsrepr="order.placed", origin="web")

    assert ours(headers) is not None


@pytest.mark.parametrize("size", [FRAME_MAX - 8, FRAME_MAX - 7, 2 * (FRAME_MAX - 8), 2 * (FRAME_MAX - 8) + 1, 0])
def test_no_frame_is_larger_than_the_broker_takes(size: int) -> None:
    frames = ours(body=b"x" * size)

    transport = BufferedTCP("127.0.0.1:1")
    transport.buffer = frames or b""
    sizes = []
    while transport.holds_frame:
        kind, _, payload = transport.read_frame()
        sizes += [len(payload) + 8] if kind == 3 else []
    assert sum(sizes) - 8 * len(sizes) == size
    assert all(size <= FRAME_MAX for size in sizes)


@pytest.mark.parametrize(
    "headers",
    [
        {"x" * 256: "a"},
        {"ä" * 128: "a"},
        {5: "a"},
        {"a": {"b": 1}},
        {"a": [[1]]},
        {"a": [{"b": 1}]},
        {"a": ()},
        {"a": b"bytes"},
        {"a": Decimal(1)},
        {"a": datetime(2026, 1, 1, tzinfo=UTC)},
        {"a": Color.RED},
        {Color.RED: "a"},
        {"a": Ellipsis},
        {"a": 2**63},
        {"a": -(2**63) - 1},
        {"a": [2**63]},
        {"a": "half a pair \ud800"},
        {"half a pair \ud800": "a"},
        {f"name-{number}": "x" * 200 for number in range(40)},
    ],
    ids=lambda headers: repr(next(iter(headers.items())))[:30].encode("ascii", "replace").decode(),
)
def test_headers_of_another_form_are_left_to_pyamqp(headers: dict[Any, Any]) -> None:
    assert ours(headers) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: ours(routing_key="x" * 256),
        lambda: ours(exchange="x" * 256),
        lambda: ours(types=("x" * 256, "utf-8")),
        lambda: ours(routing_key="\ud800"),
        lambda: ours(types=("application/json", None)),  # type: ignore[arg-type]
        lambda: ours(body="a text"),  # type: ignore[arg-type]
        lambda: ours(body=bytearray(b"{}")),
    ],
)
def test_addresses_types_and_bodies_of_another_form_are_left_to_pyamqp(call: Callable[[], bytes | None]) -> None:
    assert call() is None


def test_what_an_encoder_remembers_is_bounded() -> None:
    encoder = Encoder(CHANNEL, FRAME_MAX)

    for number in range(2500):
        encoder.frames("", f"queue-{number}", b"", {f"name-{number}": None}, "a", f"{number}", mandatory=True)

    assert max(len(encoder._methods), len(encoder._types)) <= 1000
