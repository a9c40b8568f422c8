"""The buffered transport and the outlet of RabbitMQ, over a socket that takes and gives what a test says."""

from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import UnexpectedFrame
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st

from choreo.broker.rabbitmq.outlet import Outlet
from choreo.broker.rabbitmq.transport import BufferedTCP

CHANNEL = 3


class Socket:
    """Gives the bytes of ``incoming`` one piece a read, and takes ``room`` bytes at most."""

    def __init__(self, incoming: Iterator[bytes] | list[bytes] = (), room: int = 10**9) -> None:  # type: ignore[assignment]
        self._incoming = iter(incoming)
        self.room = room
        self.sent = b""
        self.timeout: float | None = None

    def settimeout(self, seconds: float | None) -> None:
        self.timeout = seconds

    def recv(self, most: int) -> bytes:
        assert most > 0
        piece = next(self._incoming, None)
        if piece is None:
            raise BlockingIOError if self.timeout == 0 else TimeoutError
        return piece

    def send(self, data: memoryview) -> int:
        taken = min(len(data), self.room)
        if taken == 0:
            raise TimeoutError
        self.sent, self.room = self.sent + bytes(data[:taken]), self.room - taken
        return taken


def frame(kind: int, payload: bytes, channel: int = CHANNEL) -> bytes:
    return kind.to_bytes(1, "big") + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + b"\xce"


def answer(method: int, number: int, *, multiple: bool = False, channel: int = CHANNEL) -> bytes:
    return frame(1, b"\x00\x3c" + method.to_bytes(2, "big") + dumps("Lb", (number, multiple)), channel)


def ack(number: int, *, multiple: bool = False, channel: int = CHANNEL) -> bytes:
    return answer(80, number, multiple=multiple, channel=channel)


def transport_of(socket: Any) -> BufferedTCP:
    transport = BufferedTCP("127.0.0.1:1")
    transport.sock, transport._quick_recv, transport.connected = socket, socket.recv, True
    return transport


class Client:
    """An outlet, and what it was told: ("ack", 5, False), or the kind of a frame that py-amqp got."""

    def __init__(self, socket: Socket) -> None:
        self.told: list[Any] = []
        self.connection = SimpleNamespace(
            transport=transport_of(socket),
            frame_max=131072,
            bytes_recv=0,
            bytes_sent=0,
            on_inbound_frame=lambda frame: self.told.append(frame[0]),
        )
        channel = SimpleNamespace(channel_id=CHANNEL, connection=self.connection)
        self.outlet = Outlet(
            channel,
            lambda number, multiple: self.told.append(("ack", number, multiple)),
            lambda number, multiple: self.told.append(("nack", number, multiple)),
        )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


# -- the transport ----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=300)), min_size=1, max_size=8),
    st.lists(st.integers(0, 10**6), max_size=10),
)
def test_frames_are_read_whole_however_they_arrive(frames: list[tuple[int, int, bytes]], places: list[int]) -> None:
    data = b"".join(frame(kind, payload, channel) for kind, channel, payload in frames)
    transport = transport_of(Socket(cut(data, places)))

    assert [transport.read_frame() for _ in frames] == frames
    assert not transport.holds_frame
    with pytest.raises(TimeoutError):
        transport.read_frame()


def test_a_timeout_in_the_middle_of_a_frame_loses_none_of_it() -> None:
    first, second = frame(1, b"first"), frame(1, b"second")
    socket = Socket([first + second[:9]])
    transport = transport_of(socket)
    transport.read_frame()

    with pytest.raises(TimeoutError):
        transport.read_frame()
    socket._incoming = iter([second[9:]])

    assert transport.read_frame() == (1, CHANNEL, b"second")


def test_an_end_of_the_connection_is_an_error_and_no_frame() -> None:
    transport = transport_of(Socket([b""]))

    with pytest.raises(OSError, match="closed connection"):
        transport.read_frame()

    assert not transport.connected


def test_bytes_that_are_no_frame_are_an_error() -> None:
    transport = transport_of(Socket([frame(1, b"text")[:-1] + b"x"]))

    with pytest.raises(UnexpectedFrame, match="0x78"):
        transport.read_frame()


# -- the outlet -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), max_size=8))
def test_answers_of_the_channel_are_read_here_and_all_else_by_pyamqp(places: list[int]) -> None:
    data = b"".join(
        [
            ack(1),
            answer(120, 2),
            frame(8, b"", 0),
            ack(9, channel=4),
            ack(300, multiple=True),
            answer(120, 2**40, multiple=True),
            frame(1, b"\x00\x14\x00\x28"),
            ack(2**40 + 1),
        ]
    )
    pieces = cut(data, places)
    client = Client(Socket(pieces))

    for _ in pieces:
        client.outlet.listen(1)

    expected = [("ack", 1, False), ("nack", 2, False), 8, 1, ("ack", 300, True), ("nack", 2**40, True), 1]
    assert client.told == [*expected, ("ack", 2**40 + 1, False)]
    assert client.connection.bytes_recv == 5, "py-amqp counts its own"


def test_what_waits_is_written_together() -> None:
    socket = Socket()
    outlet = Client(socket).outlet
    outlet.add(b"one")
    outlet.add(b"two")

    assert (outlet.size, socket.sent) == (6, b"")
    outlet.flush(1)

    assert (outlet.size, socket.sent) == (0, b"onetwo")


def test_while_the_broker_takes_nothing_its_answers_are_read_and_looked_at_after_the_write() -> None:
    data = bytes(range(256)) * 100
    written_when_told: list[int] = []

    class Full(Socket):
        """Takes more whenever an answer was read, as a peer whose own buffers are full does."""

        def recv(self, most: int) -> bytes:
            self.room += 5000
            return super().recv(most)

    socket = Full([ack(1), frame(1, b"\x00\x14\x00\x28"), ack(2)], room=1000)
    client = Client(socket)
    client.connection.on_inbound_frame = lambda _: written_when_told.append(len(socket.sent))
    client.outlet.add(data)

    client.outlet.flush(5)
    client.outlet.take()

    assert socket.sent == data
    assert client.told == [("ack", 1, False), ("ack", 2, False)]
    assert written_when_told == [len(data)], "py-amqp answers no frame inside of another"


def test_a_broker_that_takes_nothing_is_an_error_in_bounded_time_after_all_it_said() -> None:
    client = Client(Socket([frame(1, b"\x00\x0a\x00\x3c", 0)], room=10))
    client.outlet.add(b"x" * 100)

    with pytest.raises(TimeoutError):
        client.outlet.flush(0.05)

    assert client.told == [1], "connection.blocked"


def test_a_connection_that_broke_is_an_error_after_all_that_the_broker_said() -> None:
    class Broken(Socket):
        def send(self, data: memoryview) -> int:
            raise BrokenPipeError(len(data))

    client = Client(Broken([frame(1, b"\x00\x0a\x00\x32", 0)]))
    client.outlet.add(b"x" * 100)

    with pytest.raises(BrokenPipeError):
        client.outlet.flush(5)

    assert client.told == [1]
    assert not client.connection.transport.connected
