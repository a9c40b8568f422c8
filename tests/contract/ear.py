"""A socket that listens, and keeps what each caller says."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

#: Callback: gets the bytes that a caller sent, and returns the answer; b"" hangs up.
Answer = Callable[[bytes], bytes]


class Ear:
    """The port of the socket, and the bytes that it got from its callers."""

    def __init__(self, answer: Answer) -> None:
        self.heard: list[bytes] = []
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._socket.accept()
                threading.Thread(target=self._hear, args=(caller,), daemon=True).start()

    def _hear(self, caller: socket.socket) -> None:
        caller.settimeout(5)
        with caller, suppress(OSError):
            while words := caller.recv(4096):
                self.heard.append(words)
                answer = self._answer(words)
                if not answer:
                    break
                caller.sendall(answer)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening(answer: Answer = lambda _: b"") -> Iterator[Ear]:
    ear = Ear(answer)
    try:
        yield ear
    finally:
        ear.close()


def naming_master(port: int) -> Answer:
    """The answers of a Sentinel that has a master named shop on this port."""
    facts = ["name", "shop", "ip", "127.0.0.1", "port", str(port), "flags", "master", "num-other-sentinels", "0"]
    fields = "".join(f"${len(fact)}\r\n{fact}\r\n" for fact in facts)

    def answer(words: bytes) -> bytes:
        if b"SENTINEL" in words.upper():
            return f"*1\r\n*{len(facts)}\r\n{fields}".encode()
        return b"+OK\r\n" * words.count(b"*")

    return answer
