"""A certificate, and a server that takes TLS for one that does not."""

import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest


def certificate_in(directory: Path) -> tuple[Path, Path]:
    """A new certificate of this machine and its key; skips without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    subprocess.run(
        [openssl, *"req -x509 -newkey rsa:2048 -nodes -days 1".split(), "-keyout", key, "-out", certificate, *names],
        check=True,
        capture_output=True,
    )
    return certificate, key


class Terminator:
    """Takes TLS, and hands it on to a server in clear."""

    def __init__(self, certificate: Path, key: Path, host: str, port: int) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self._target = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                near = self._context.wrap_socket(caller, server_side=True)
                far = socket.create_connection(self._target)
                near.settimeout(0.01)
                turn = threading.Lock()
                for pump in (self._up, self._down):
                    threading.Thread(target=pump, args=[near, far, turn], daemon=True).start()

    def _up(self, near: ssl.SSLSocket, far: socket.socket, turn: threading.Lock) -> None:
        with suppress(OSError), far:
            while True:
                with turn:
                    try:
                        data = near.recv(65536)
                    except TimeoutError:
                        continue
                if not data:
                    return
                far.sendall(data)

    def _down(self, near: ssl.SSLSocket, far: socket.socket, turn: threading.Lock) -> None:
        with suppress(OSError), near:
            while data := far.recv(16384):
                with turn:
                    near.settimeout(30)
                    near.sendall(data)
                    near.settimeout(0.01)

    def close(self) -> None:
        self._listener.close()
