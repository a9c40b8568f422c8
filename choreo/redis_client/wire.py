"""
A wire: one connection to Redis that is kept open, with a short way to send a command.

A call by redis-py's client takes 60 to 100 µs of CPU, a packed command on an open connection about 15 µs.
A wire serves any number of threads, one call at a time. A forked child opens its own connection.

A call returns the server's answer, or raises within the connection's timeouts. If the connection turns out to be dead
before the command is sent, it is replaced silently. Once the command may have reached the server, the error is raised:
only the caller knows if the command may be repeated.
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from time import monotonic
from typing import Any

from hiredis import pack_command
from redis.exceptions import NoScriptError, RedisError, ResponseError

from choreo import forks
from choreo.redis_client.scripts import Script

Argument = str | int
#: A call of a script: the script, its keys and its arguments.
Call = tuple[Script, Sequence[Argument], Sequence[Argument]]

# Its annotation allows one part only.
_pack: Callable[[tuple[Argument, ...]], bytes] = pack_command  # type: ignore[assignment]

#: Seconds after which an idle connection is checked before it is used, since the server may have closed it.
IDLE_SECONDS = 0.1


def pack(parts: Sequence[Argument]) -> bytes:
    """The command in Redis's protocol. Raises `UnicodeEncodeError` for half a surrogate pair."""
    return _pack(tuple(parts))


def pack_some(parts: Sequence[Argument]) -> bytes:
    """Some parts of a command in Redis's protocol, without the count of parts before them. Raises as `pack` does."""
    packed = _pack(tuple(parts))
    return packed[packed.index(b"\n") + 1 :]


class PackedOnce:
    """A cache for commands that differ only in some of their parts: the parts that are the same are packed once."""

    def __init__(self, most: int = 100) -> None:
        #: The most entries; the cache is cleared when it is full.
        self._most = most
        self._packed: dict[Hashable, tuple[int, bytes, bytes]] = {}

    def command(
        self,
        key: Hashable,
        same: Callable[[], tuple[Sequence[Argument], Sequence[Argument]]],
        between: Sequence[Argument] = (),
        after: Sequence[Argument] = (),
    ) -> bytes:
        """
        The packed command. Its parts are ``first``, ``between``, ``second`` and ``after``.

        ``same`` is a callback that returns ``first`` and ``second``. It is called once per ``key``.
        """
        if key not in self._packed:
            if len(self._packed) >= self._most:
                self._packed.clear()
            first, second = same()
            self._packed[key] = len(first) + len(second), pack_some(first), pack_some(second)
        count, head, middle = self._packed[key]
        parts = head, pack_some(between), middle, pack_some(after)
        return b"*%d\r\n%b%b%b%b" % (count + len(between) + len(after), *parts)

    def forget(self) -> None:
        """Clear the cache, when the parts that were the same have changed."""
        self._packed.clear()


class Wire:
    """A connection of a pool, opened by the first call and kept until it breaks or is closed."""

    def __init__(self, pool: Callable[[], Any]) -> None:
        self._pool = pool
        self._connection: Any = None
        self._last_used = 0.0
        self._lock = threading.Lock()
        self._plain: dict[str, Script] = {}
        #: How many answers to pushed commands are not read yet.
        self._owed = 0
        forks.guard(self)

    def call(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
        """Run a script. It is loaded if the server does not know it."""
        try:
            return self.command(*self.evalsha(script, keys, args))
        except NoScriptError:
            self.load(script)
            return self.command(*self.evalsha(script, keys, args))

    def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run several scripts in one go. Returns the answers: a `ResponseError` for each that the server refused."""
        answers = self.commands([self.evalsha(*call) for call in calls])
        for number, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):
                try:
                    answers[number] = self.call(*calls[number])
                except ResponseError as error:
                    answers[number] = error
        return answers

    def evalsha(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> tuple[Argument, ...]:
        """The command that runs a script."""
        return ("EVALSHA", self.known(script).sha, len(keys), *keys, *args)

    def known(self, script: Script) -> Script:
        """The script in the form that this server takes: before Redis 7, without flags."""
        return self._plain.get(script.name, script)

    def load(self, script: Script) -> None:
        """Load a script into the server. Before Redis 7 it is loaded without flags."""
        try:
            self.command("SCRIPT", "LOAD", script.source)
        except ResponseError as exc:
            plain = script.without_flags()
            if "compiling script" not in str(exc) or plain.source == script.source:
                raise
            self.command("SCRIPT", "LOAD", plain.source)
            self._plain[script.name] = plain

    def command(self, *parts: Argument) -> Any:
        """Send one command and return the server's answer."""
        return self.send_packed(pack(parts))

    def commands(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send several commands in one go. Returns the answers: a `ResponseError` for each that the server refused."""
        self.push(b"".join(map(pack, commands)), len(commands))
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(self.pull())
            except ResponseError as error:
                answers.append(error)
        return answers

    def timed(self, commands: Sequence[Sequence[Argument]]) -> list[tuple[Any, Any]]:
        """Send several commands in one go. Returns for each the server's answer to TIME, and the command's own."""
        now, *answers = self.commands([("TIME",), *commands])
        return [(now, answer) for answer in answers]

    def send_packed(self, packed: bytes) -> Any:
        """Send one packed command and return the server's answer."""
        forks.notice()
        with self._lock:
            connection = self._ready()
            connection.send_packed_command((packed,), check_health=False)
            answer = connection.read_response()
            self._last_used = monotonic()
            return answer

    def push(self, packed: bytes, count: int = 1) -> None:
        """Send ``count`` packed commands. `pull` reads the answers; until all are read, no other call may be made."""
        forks.notice()
        with self._lock:
            # No check here: a connection with unread answers looks like a closed one.
            connection = self._connection if self._owed else self._ready()
            connection.send_packed_command((packed,), check_health=False)
            self._owed += count
            self._last_used = monotonic()

    def pull(self) -> Any:
        """The answer to the oldest pushed command. Raises `ConnectionError` if the connection was closed meanwhile."""
        with self._lock:
            if self._connection is None or not self._owed:
                raise ConnectionError("the connection was closed, and the answer with it")
            self._owed -= 1
            answer = self._connection.read_response()
            self._last_used = monotonic()
            return answer

    def drop(self) -> None:
        """Disconnect, and forget the unread answers. The next call connects again."""
        self._owed = 0
        if self._connection is not None:
            self._connection.disconnect()

    def close(self) -> None:
        """Close the connection. A later call opens a new one."""
        forks.notice()
        connection, self._connection, self._owed = self._connection, None, 0
        if connection is not None:
            connection.disconnect()
            # A pool has a maximum of connections, and counts those in use.
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
        """Reconnect, before a command is sent, if the server closed the connection or does not answer."""
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
        """
        Drop the connection and the lock in a forked child, without closing the connection: it is the parent's.

        A thread of the parent may have held the lock.
        """
        self._connection, self._lock, self._owed = None, threading.Lock(), 0
