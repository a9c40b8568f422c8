"""
A TCP proxy in front of a server, with a hand on the cable.

    with Proxy("127.0.0.1", 6379) as proxy:
        proxy.cut()                  every connection, now
        proxy.cut_midway("up")       each at its next command, after half of the bytes: the server saw a part of it
        proxy.mode = "drop down"     what the server answers is swallowed; also "drop up", "stall", "refuse", "ok"

`cut_midway("down")` lets a command through whole and cuts its answer in half: it was carried out, and the client
cannot know.
"""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Literal, Self

Direction = Literal["up", "down"]
Mode = Literal["ok", "stall", "drop up", "drop down", "refuse"]


class _Pair:
    """One client's connection and ours to the server on its behalf."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        #: The direction whose next bytes are cut in half.
        self.midway: Direction | None = None
        #: How many directions have come to an orderly end.
        self.ended = 0

    def reset(self) -> None:
        """Break it without an orderly end, as a dead host or a firewall does."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        for end in (self.client, self.server):
            # The shutdown wakes up a thread that waits for bytes; close() alone does not.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                end.close()


class Proxy:
    """Listens on a free port of 127.0.0.1 between start (or `with`) and stop. `connections` counts all it ever had."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._pairs: list[_Pair] = []
        self._lock = threading.Lock()
        self._open_gate = threading.Event()
        self._mode: Mode = "ok"
        self._listener: socket.socket | None = None
        self.connections = 0

    @property
    def port(self) -> int:
        assert self._listener is not None, "the proxy is not started"
        return int(self._listener.getsockname()[1])

    @property
    def mode(self) -> Mode:
        """What happens to bytes. In "stall" none passes, and those on their way wait."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        if mode == "stall":
            self._open_gate.clear()
        else:
            self._open_gate.set()

    def start(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._open_gate.set()
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()
        return self

    def stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            # close() alone does not wake up a thread that waits in accept().
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.mode = "refuse"
        self.cut()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def cut(self) -> int:
        """Break every connection. Returns how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.reset()
        return len(pairs)

    def cut_midway(self, direction: Direction) -> int:
        """Break every connection at its next bytes in this direction, after half of them. Returns how many."""
        with self._lock:
            for pair in self._pairs:
                pair.midway = direction
            return len(self._pairs)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                if self._mode == "refuse":
                    raise ConnectionRefusedError
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.append(pair)
                self.connections += 1
            threading.Thread(target=self._pump, args=[pair, client, server, "up"], daemon=True).start()
            threading.Thread(target=self._pump, args=[pair, server, client, "down"], daemon=True).start()

    def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        try:
            while data := source.recv(65536):
                self._open_gate.wait()
                if self._mode == f"drop {direction}":
                    continue
                if pair.midway == direction:
                    sink.sendall(data[: len(data) // 2])
                    raise ConnectionResetError
                sink.sendall(data)
            # What the other side still has to say gets through.
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._forget(pair)
            pair.reset()
        else:
            pair.ended += 1
            if pair.ended == 2:
                self._forget(pair)
                pair.close()

    def _forget(self, pair: _Pair) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._pairs.remove(pair)
