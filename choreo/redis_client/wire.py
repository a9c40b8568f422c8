"""
One held connection to Redis, and the shortest way to send a command over it.

redis-py's high-level call costs 60 to 100 µs of CPU, a packed command on a held connection about 15.
A wire serves any number of threads, one call at a time. A forked child opens its own connection.

A call either returns the server's answer or raises within the connection's timeouts. A connection that is found dead
before the command was sent is replaced silently. Once the command may have reached the server, the error is raised:
only the caller knows if it may be repeated.
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from time import monotonic
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from choreo import forks
from choreo.redis_client.scripts import Script

Part = str | int

#: A connection that was idle for longer than this is looked at before it is used: the server may have closed it.
IDLE_SECONDS = 0.1


def pack(parts: Sequence[Part]) -> bytes:
    """The command as Redis reads it. redis-py's own packer takes three times as long."""
    return b"*%d\r\n%b" % (len(parts), pack_some(parts))


def pack_some(parts: Sequence[Part]) -> bytes:
    """Some parts of a command, as they stand in it one after the other."""
    chunks: list[str] = []
    for part in parts:
        if type(part) is not str:
            part = str(part)
        # Redis counts bytes.
        chunks += (f"${len(part) if part.isascii() else len(part.encode())}", part)
    chunks.append("")
    return "\r\n".join(chunks).encode()


class PackedOnce:
    """Commands that differ in a few of their parts only: what is the same in all of them is packed once."""

    def __init__(self, most: int = 100) -> None:
        #: So many are kept.
        self._most = most
        self._packed: dict[Hashable, tuple[int, bytes, bytes]] = {}

    def command(
        self,
        key: Hashable,
        same: Callable[[], tuple[Sequence[Part], Sequence[Part]]],
        between: Sequence[Part] = (),
        after: Sequence[Part] = (),
    ) -> bytes:
        """The command, packed. ``same`` is asked once per ``key`` for its first parts, and those behind ``between``."""
        if key not in self._packed:
            if len(self._packed) >= self._most:
                self._packed.clear()
            first, second = same()
            self._packed[key] = len(first) + len(second), pack_some(first), pack_some(second)
        count, head, middle = self._packed[key]
        parts = head, pack_some(between), middle, pack_some(after)
        return b"*%d\r\n%b%b%b%b" % (count + len(between) + len(after), *parts)

    def forget(self) -> None:
        """What was the same in all of them is another now."""
        self._packed.clear()


class Wire:
    """A lazily opened connection of a pool, held until it breaks or is closed."""

    def __init__(self, pool: Callable[[], Any]) -> None:
        self._pool = pool
        self._connection: Any = None
        self._last_used = 0.0
        self._lock = threading.Lock()
        self._plain: dict[str, Script] = {}
        #: How many pushed commands are not answered yet.
        self._owed = 0
        forks.guard(self)

    def call(self, script: Script, keys: Sequence[Part], args: Sequence[Part]) -> Any:
        """Run a script, loading it first where the server does not know it."""
        try:
            return self.command(*self.evalsha(script, keys, args))
        except NoScriptError:
            self.load(script)
            return self.command(*self.evalsha(script, keys, args))

    def evalsha(self, script: Script, keys: Sequence[Part], args: Sequence[Part]) -> tuple[Part, ...]:
        return ("EVALSHA", self.known(script).sha, len(keys), *keys, *args)

    def known(self, script: Script) -> Script:
        """The script as this server takes it."""
        return self._plain.get(script.name, script)

    def load(self, script: Script) -> None:
        """Make the script known to the server."""
        try:
            self.command("SCRIPT", "LOAD", script.source)
        except ResponseError as exc:
            plain = script.without_flags()
            if "compiling script" not in str(exc) or plain.source == script.source:
                raise
            self.command("SCRIPT", "LOAD", plain.source)
            self._plain[script.name] = plain

    def command(self, *parts: Part) -> Any:
        """Send one command and return the server's answer."""
        return self.send_packed(pack(parts))

    def commands(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """Send several commands in one go and return the answers; where the server refused, its `ResponseError`."""
        self.push(b"".join(map(pack, commands)), len(commands))
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(self.pull())
            except ResponseError as error:
                answers.append(error)
        return answers

    def send_packed(self, packed: bytes) -> Any:
        with self._lock:
            connection = self._ready()
            connection.send_packed_command((packed,), check_health=False)
            answer = connection.read_response()
            self._last_used = monotonic()
            return answer

    def push(self, packed: bytes, count: int = 1) -> None:
        """Send commands, and leave their answers to `pull`. Nothing else may use this wire until all are pulled."""
        with self._lock:
            # A connection with answers to read looks like one that was closed.
            connection = self._connection if self._owed else self._ready()
            connection.send_packed_command((packed,), check_health=False)
            self._owed += count
            self._last_used = monotonic()

    def pull(self) -> Any:
        """The answer to the oldest pushed command."""
        with self._lock:
            if self._connection is None or not self._owed:
                raise ConnectionError("the connection was closed, and the answer with it")
            self._owed -= 1
            answer = self._connection.read_response()
            self._last_used = monotonic()
            return answer

    def drop(self) -> None:
        """Forget the connection, and whatever was to be read from it."""
        self._owed = 0
        if self._connection is not None:
            self._connection.disconnect()

    def close(self) -> None:
        """Close the connection. A later call opens a new one."""
        connection, self._connection, self._owed = self._connection, None, 0
        if connection is not None:
            connection.disconnect()
            # A pool counts what it has given out, and has an end.
            self._pool().release(connection)

    def _ready(self) -> Any:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._pool().get_connection()
        elif connection._sock is None:
            connection.connect()
        elif monotonic() - self._last_used > IDLE_SECONDS:
            self._look_at(connection)
        return connection

    def _look_at(self, connection: Any) -> None:
        """Replace a connection that the server closed, or that does not answer, while nothing was sent."""
        try:
            alive = not connection.can_read(timeout=0)
            if alive:
                connection.check_health()
        except (RedisError, OSError):
            alive = False
        if not alive:
            connection.disconnect()
            connection.connect()

    def after_fork(self) -> None:
        # The socket belongs to the parent process. It is dropped here, not closed, like the lock, which a thread of
        # the parent may have held.
        self._connection, self._lock, self._owed = None, threading.Lock(), 0
