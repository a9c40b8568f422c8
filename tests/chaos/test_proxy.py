"""The proxy does to a connection what it says, and nothing else."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import Proxy
from tests.waiting import eventually


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that answers what it is told."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=[connection], daemon=True).start()

    def answer(connection: socket.socket) -> None:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            pass
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo) as started:
        yield started


def connect(proxy: Proxy) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    ask(connection, b"hello")
    return connection


def ask(connection: socket.socket, text: bytes) -> None:
    connection.sendall(text)
    assert connection.recv(65536) == text


def received_until_broken(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            received += data
    return received


def is_broken(connection: socket.socket) -> bool:
    try:
        return connection.recv(65536) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_bytes_pass_in_both_directions(proxy: Proxy) -> None:
    ask(connect(proxy), b"x" * 1000)


def test_a_cut_breaks_every_connection_and_lets_new_ones_in(proxy: Proxy) -> None:
    first, second = connect(proxy), connect(proxy)

    assert proxy.cut() == 2

    assert is_broken(first)
    assert is_broken(second)
    connect(proxy)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_midway_lets_half_of_the_next_bytes_through(proxy: Proxy, direction: str) -> None:
    connection = connect(proxy)

    proxy.cut_midway(direction)  # type: ignore[arg-type]
    connection.sendall(b"abcdef")

    received = received_until_broken(connection)

    assert received in (b"", b"abc")
    connect(proxy)


@pytest.mark.parametrize("mode", ["drop up", "drop down", "stall"])
def test_no_byte_comes_back_in_a_mode_that_keeps_them(proxy: Proxy, mode: str) -> None:
    connection = connect(proxy)

    proxy.mode = mode  # type: ignore[assignment]
    connection.sendall(b"lost")
    connection.settimeout(0.2)

    with pytest.raises(TimeoutError):
        connection.recv(65536)


def test_what_was_stalled_comes_through_in_the_end(proxy: Proxy) -> None:
    connection = connect(proxy)

    proxy.mode = "stall"
    connection.sendall(b"late")
    proxy.mode = "ok"

    assert connection.recv(65536) == b"late"


def test_nobody_gets_in_while_it_refuses(proxy: Proxy) -> None:
    proxy.mode = "refuse"

    connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)

    assert is_broken(connection)


def test_the_end_of_one_side_reaches_the_other(proxy: Proxy) -> None:
    connection = connect(proxy)

    connection.shutdown(socket.SHUT_WR)

    assert connection.recv(65536) == b""
    eventually(lambda: not proxy._pairs, reason="the pair is forgotten")
