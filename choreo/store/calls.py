"""Calls of the store to its Redis server or cluster: kept connections, repeated calls, errors that name the server."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import redis
from redis.exceptions import ClusterDownError, OutOfMemoryError, ResponseError, TryAgainError

from choreo import forks
from choreo.cached import cached_property
from choreo.errors import StoreError
from choreo.redis_client.client import find_client
from choreo.redis_client.cluster import ClusterWire, mended
from choreo.redis_client.refusals import explained, is_outage
from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Argument, Call, Wire

T = TypeVar("T")

#: Seconds to wait before each repetition of a call whose connection broke. Every script may be repeated.
_PAUSES = (0.05, 0.2, 0.5)
#: Errors after which a call is repeated.
_AGAIN = (redis.ConnectionError, redis.TimeoutError, OSError, TryAgainError, ClusterDownError)


class Calls:
    """
    Calls to one server or cluster. Safe in threads, and after a fork. Each call raises `StoreError` if it fails.

    In a cluster, the keys of one call are in one slot: the names of all keys of a handler, or of a service's workers,
    have the same hash tag.

    ``ssl`` and ``transport`` are those of `choreo.redis_client.client.find_client`.
    """

    def __init__(
        self, url: str, ssl: Mapping[str, Any] | bool | None = None, transport: Mapping[str, Any] | None = None
    ) -> None:
        self.url = url
        self._ssl, self._transport = ssl, transport or {}
        # Each call uses a wire alone, so there are as many wires as there are concurrent calls.
        self._wires: deque[Wire | ClusterWire] = deque()
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
        return find_client(self.url, self._ssl, self._transport)

    def ask(self, call: Callable[[Any], T]) -> T:
        """Return the answer of ``call``, which gets redis-py's client: for rare commands. A wire is much faster."""
        for pause in (*_PAUSES, None):
            try:
                client = self._client
                with mended() if self._has_cluster else nullcontext():
                    return call(client)
            except (redis.RedisError, OSError, UnicodeEncodeError) as error:
                # The client of a single server repeats its commands itself.
                if pause is None or not isinstance(error, _AGAIN) or not self._has_cluster:
                    raise self._given_up(error) from error
                time.sleep(pause)
        raise AssertionError("unreachable")

    def together(self, queue: Callable[[Any], object]) -> list[Any]:
        """
        The answers to commands that only read, in one step. ``queue`` is a callback: it puts them into a pipeline.

        A full server refuses every command of a transaction, and takes them one after the other.
        """

        def call(client: Any) -> list[Any]:
            try:
                return _answers(client, queue, in_one_step=True)
            except OutOfMemoryError:
                return _answers(client, queue, in_one_step=False)

        return self.ask(call)

    def run(self, script: Script, keys: Sequence[Argument], args: Sequence[Any]) -> Any:
        """Run a script and return its answer."""
        return self._on_a_wire(lambda wire: wire.call(script, keys, args))

    def run_once(
        self,
        script: Script,
        keys: Sequence[Argument],
        args: Sequence[Any],
        check: Callable[[Any], object] | None = None,
    ) -> tuple[Any, bool]:
        """
        Run a script. Returns its answer, and True if it was sent more than once.

        ``check`` sees each answer, and may raise a redis error in its place.
        """
        tries = 0

        def call(wire: Any) -> Any:
            nonlocal tries
            tries += 1
            answer = wire.call(script, keys, args)
            if check is not None:
                check(answer)
            return answer

        return self._on_a_wire(call), tries > 1

    def run_all(self, calls: Sequence[Call]) -> tuple[list[Any], bool]:
        """
        Run scripts in one round trip, each of which answers about several units. The keys of each are in one slot.

        Returns for each its answer, and True if they were sent more than once. An answer is a list with an item for
        each unit: a `ResponseError` in place of ``[b"error", reason]``. Or the `ResponseError` itself, if the server
        refused the script.
        """
        tries = 0

        def call(wire: Any) -> list[Any]:
            nonlocal tries
            tries += 1
            answers = [_with_errors(answer) for answer in wire.call_all(calls)]
            if any(isinstance(one, Exception) for answer in answers for one in _listed(answer)):
                # The server may no longer be the right one: a former master, say.
                wire.close()
            return answers

        return self._on_a_wire(call), tries > 1

    def timed(self, commands: Sequence[Sequence[Argument]]) -> list[tuple[Any, Any]]:
        """
        Run several commands in one round trip. Each has its key in the second place, and changes nothing.

        Returns for each the answer to TIME of the server that has the key, and its own answer: either may be a
        `ResponseError`, if it was refused.
        """
        return self._on_a_wire(lambda wire: wire.timed(commands))

    def time(self, key: str) -> float:
        """Seconds since 1970, by the clock of the server that has this key."""
        ((now, _),) = self.timed([("EXISTS", key)])
        if isinstance(now, Exception):
            raise self.failed(now)
        seconds, microseconds = now
        return int(seconds) + int(microseconds) / 1_000_000

    def failed(self, error: Exception) -> StoreError:
        """The `StoreError` for an error. It names the server, without user, password and query."""
        # The query of a URL may hold a password as well.
        address = (self.url.rpartition("@")[2] or self.url).partition("?")[0]
        return StoreError(f"the call to the store at {address} failed: {explained(error)}", is_outage=is_outage(error))

    def _on_a_wire(self, call: Callable[[Any], T]) -> T:
        forks.notice()
        for pause in (*_PAUSES, None):
            wire: Wire | ClusterWire | None = None
            try:
                wire = self._wire()
                answer = call(wire)
            except (redis.RedisError, OSError, UnicodeEncodeError) as error:
                if wire is not None:
                    wire.close()
                if pause is None or not isinstance(error, _AGAIN):
                    raise self._given_up(error) from error
                time.sleep(pause)
            else:
                self._wires.append(wire)
                return answer
        raise AssertionError("unreachable")

    def new_wire(self) -> Wire:
        """A connection of its own, for a caller that sends commands and reads the answers later. Not for a cluster."""
        return Wire(lambda: self._client.connection_pool)

    def _wire(self) -> Wire | ClusterWire:
        try:
            return self._wires.pop()
        except IndexError:
            if isinstance(self._client, redis.RedisCluster):
                return ClusterWire(lambda: self._client)
            return Wire(lambda: self._client.connection_pool)

    def _given_up(self, error: Exception) -> StoreError:
        if self._has_cluster:
            # All nodes that it knows may have got other addresses. The next call asks those of the URL again.
            self.__dict__.pop("_client", None)
        return self.failed(error)

    @property
    def _has_cluster(self) -> bool:
        return isinstance(self.__dict__.get("_client"), redis.RedisCluster)


def _answers(client: Any, queue: Callable[[Any], object], *, in_one_step: bool) -> list[Any]:
    with client.pipeline(transaction=in_one_step) as pipeline:
        queue(pipeline)
        return list(pipeline.execute())


def _listed(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer]


def _with_errors(answer: Any) -> Any:
    if not isinstance(answer, list):
        return answer
    return [ResponseError(one[1].decode(errors="replace")) if _is_error(one) else one for one in answer]


def _is_error(answer: Any) -> bool:
    return isinstance(answer, list) and bool(answer) and answer[0] == b"error"
