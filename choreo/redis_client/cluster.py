"""
A Redis Cluster as the store: how it is recognised, its client, and calls to the node that has the keys.

redis-py's `RedisCluster` knows which node has which keys. It follows a slot that moves (MOVED, ASK), waits a moment
while the keys of a slot are on two nodes (TRYAGAIN), and reads the map of the nodes again after a failover.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ClusterError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    TryAgainError,
)
from redis.retry import Retry

from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Argument, Call


def is_node(client: Any) -> bool:
    """
    True if the server of this client is a node of a cluster. Raises redis-py's errors if it cannot be reached.

    A server says so when a connection is opened, which the client's pool keeps. Only with the older protocol RESP2 it
    is asked.
    """
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        facts = getattr(connection, "handshake_metadata", None)
        if not facts:
            connection.send_command("HELLO")
            facts = connection.read_response()
    except redis.ResponseError:  # a server before Redis 6, or a proxy
        return False
    finally:
        pool.release(connection)
    if isinstance(facts, Mapping):
        return facts.get(b"mode", facts.get("mode")) in (b"cluster", "cluster")
    return b"cluster" in facts


def cluster_of(nodes: Sequence[str], options: Mapping[str, Any]) -> Any:
    """
    The client of a cluster, by the URLs of some of its nodes. User, password and options of the first serve for all.

    It repeats no call whose connection broke: the caller does that, and must know it.
    """
    places = [redis.connection.parse_url(node) for node in nodes[1:]]  # type: ignore[no-untyped-call]
    others: Any = [ClusterNode(place.get("host", "localhost"), place.get("port", 6379)) for place in places]  # type: ignore[no-untyped-call]
    with mended():
        return RedisCluster(
            url=nodes[0],
            startup_nodes=others,
            retry=Retry(NoBackoff(), 0),
            # The handlers whose node is away wait; those of other nodes go on.
            require_full_coverage=False,
            # The map of the nodes is read again as soon as one slot has moved: the neighbours mostly move as well.
            reinitialize_steps=1,
            **options,
        )


@contextmanager
def mended() -> Iterator[None]:
    """Context: raise each error of `RedisCluster` as the error of a server that it stands for."""
    try:
        yield
    except (AskError, MovedError) as error:  # within a transaction
        raise TryAgainError(f"TRYAGAIN the slot moves: {error}") from error
    except RedisClusterException as error:
        if isinstance(error.__cause__, redis.RedisError):
            raise error.__cause__ from None
        kind = redis.ResponseError if "same key slot" in str(error) else redis.ConnectionError
        raise kind(f"{'CROSSSLOT ' if kind is redis.ResponseError else ''}{error}") from error
    except ClusterError as error:
        if isinstance(error, redis.ResponseError):
            raise
        raise TryAgainError("TRYAGAIN the cluster is moving slots") from error


class ClusterWire:
    """
    Calls to a cluster, with those methods of a `Wire` that the store uses. Safe in threads, as the client is.

    ``client`` returns the client of the cluster.
    """

    def __init__(self, client: Callable[[], Any]) -> None:
        self._find = client

    def call(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
        """Run a script on the node that has its keys. The keys are in one slot."""
        call = (len(keys), *keys, *args)
        with mended():
            client = self._find()
            try:
                return client.execute_command("EVALSHA", script.sha, *call)
            except NoScriptError:
                # This loads the script into the node that was asked, also where a slot is on its way to that node.
                return client.execute_command("EVAL", script.source, *call)

    def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run several scripts, one after the other: their keys may be in different slots. See `Wire.call_all`."""
        answers: list[Any] = []
        for call in calls:
            try:
                answers.append(self.call(*call))
            except (TryAgainError, ClusterDownError):
                raise
            except redis.ResponseError as error:
                answers.append(error)
        return answers

    def timed(self, commands: Sequence[Sequence[Argument]]) -> list[tuple[Any, Any]]:
        """See `choreo.store.calls.Calls.timed`. One round trip to each node that has some of the keys."""
        with mended():
            client = self._find()
            nodes = [client.get_node_from_key(key) for _, key, *_ in commands]
            answers: dict[int, tuple[Any, Any]] = {}
            for name, node in {node.name: node for node in nodes}.items():
                numbers = [number for number, other in enumerate(nodes) if other.name == name]
                now, *found = _asked(client, node, [commands[number] for number in numbers])
                answers |= {number: (now, answer) for number, answer in zip(numbers, found, strict=True)}
        return [answers[number] for number in range(len(commands))]

    def close(self) -> None:
        """Do nothing: the client keeps the connections, and replaces those that broke."""


def _asked(client: Any, node: Any, commands: Sequence[Sequence[Argument]]) -> list[Any]:
    """The time of a node, and its answers. Reads the map of the nodes again if it turns out to be wrong."""
    try:
        with client.get_redis_connection(node).pipeline(transaction=False) as pipeline:
            for command in (("TIME",), *commands):
                pipeline.execute_command(*command)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
    except (redis.ConnectionError, redis.TimeoutError):
        client.nodes_manager.initialize()
        raise
    if any(type(answer) is MovedError for answer in answers):
        client.nodes_manager.initialize()
    return answers


def servers(client: Any, url: str) -> list[tuple[str, Callable[[], Any]]]:
    """For each server that takes writes: its URL or address, and a callback that returns its answer to INFO."""
    if isinstance(client, RedisCluster):
        primaries = client.get_primaries()  # type: ignore[no-untyped-call]
        return [(node.name, client.get_redis_connection(node).info) for node in primaries]
    return [(url, client.info)]
