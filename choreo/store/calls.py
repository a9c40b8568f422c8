"""Calls of the store to its Redis server: connections that are kept, repeated calls, errors that name the server."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import redis

from choreo import forks
from choreo.errors import StoreError
from choreo.redis_client.client import make_client
from choreo.redis_client.refusals import explained, is_outage
from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Part, Wire

T = TypeVar("T")

#: Seconds to wait before each repetition of a call whose connection broke. Every script may be repeated.
_PAUSES = (0.05, 0.2, 0.5)


class Calls:
    """
    Calls to one server. Safe in threads, and after a fork. Each call raises `StoreError` if it fails.

    ``ssl`` and ``transport`` are those of `choreo.redis_client.client.make_client`.
    """

    def __init__(
        self, url: str, ssl: Mapping[str, Any] | bool | None = None, transport: Mapping[str, Any] | None = None
    ) -> None:
        self.url = url
        self._ssl, self._transport = ssl, transport or {}
        # Each call uses a wire alone, so there are as many wires as there are concurrent calls.
        self._wires: deque[Wire] = deque()
        self._inherited: list[Any] = []
        forks.guard(self)

    def after_fork(self) -> None:
        """
        Begin again without client and wires in a forked child.

        A thread of the parent may have held the lock of the client's pool, and no thread of the child would release it.
        So the child neither uses that client nor lets it be collected.
        """
        self._inherited += [self.__dict__.pop("_client", None), self._wires]
        self._wires = deque()

    @cached_property
    def _client(self) -> Any:
        return make_client(self.url, self._ssl, self._transport)

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Context: redis-py's client, for rare commands. A command takes several times as long as on a wire."""
        try:
            yield self._client
        except (redis.RedisError, UnicodeEncodeError) as error:
            raise self.failed(error) from error

    def run(self, script: Script, keys: Sequence[Part], args: Sequence[Any]) -> Any:
        """Run a script and return its answer."""
        return self._on_a_wire(lambda wire: wire.call(script, keys, args))

    def run_once(
        self, script: Script, keys: Sequence[Part], args: Sequence[Any], check: Callable[[Any], object] | None = None
    ) -> tuple[Any, bool]:
        """
        Run a script. Returns its answer, and True if it was sent more than once.

        ``check`` sees each answer, and may raise a redis error in its place.
        """
        tries = 0

        def call(wire: Wire) -> Any:
            nonlocal tries
            tries += 1
            answer = wire.call(script, keys, args)
            if check is not None:
                check(answer)
            return answer

        return self._on_a_wire(call), tries > 1

    def commands(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """Run several commands in one round trip. Returns the answers: a `ResponseError` for each that was refused."""
        return self._on_a_wire(lambda wire: wire.commands(commands))

    def failed(self, error: Exception) -> StoreError:
        """The `StoreError` for an error. It names the server, without user, password and query."""
        # The query of a URL may hold a password as well.
        address = (self.url.rpartition("@")[2] or self.url).partition("?")[0]
        return StoreError(f"the call to the store at {address} failed: {explained(error)}", is_outage=is_outage(error))

    def _on_a_wire(self, call: Callable[[Wire], T]) -> T:
        forks.notice()
        for pause in (*_PAUSES, None):
            try:
                wire = self._wires.pop()
            except IndexError:
                wire = Wire(lambda: self._client.connection_pool)
            try:
                answer = call(wire)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                wire.close()
                if pause is None:
                    raise self.failed(error) from error
                time.sleep(pause)
            except (redis.RedisError, UnicodeEncodeError) as error:
                wire.close()
                raise self.failed(error) from error
            else:
                self._wires.append(wire)
                return answer
        raise AssertionError("unreachable")
