"""A corner of a Redis server to try the transport in, and a wire that can be cut."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from kombu import Connection, Consumer, Exchange, Producer, Queue

from choreo.redis_client.scripts import Script
from tests.waiting import DEADLINE

TRANSPORT = "choreo.broker.redis.transport:Transport"

#: Short enough for a test to wait for, long enough for a busy machine.
TIMEOUT = 1.5

EVENTS = Exchange("events", type="topic")


#: The scripts that a server knows once a worker has handled an event.
KNOWN = ("fast/commit_fused", "store/begin", "store/arrive", "broker/redis/take", "broker/redis/broadcast")


class Corner:
    """A key prefix on a server, with what tests do there."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url, self.prefix = url, prefix
        self.redis = redis.Redis.from_url(url)
        # As in production, the server knows the scripts: else a test would depend on those that ran before it.
        for name in KNOWN:
            self.redis.script_load(Script.load(name).source)
        self._connections: list[Connection] = []

    def connect(self, url: str | None = None, transport: str = TRANSPORT, **options: Any) -> Connection:
        options = {"global_keyprefix": self.prefix, "consumer_timeout": TIMEOUT, **options}
        connection = Connection(url or self.url, transport=transport, transport_options=options)
        self._connections.append(connection)
        return connection

    def publish(self, key: str = "order.placed", body: Any = None, **options: Any) -> int:
        """Broadcast an event; the number of queues reached."""
        reached: int = self.producer.publish(body, exchange=EVENTS, routing_key=key, declare=[EVENTS], **options)
        return reached

    def put(self, queue: str, body: Any = None, **options: Any) -> None:
        """Send to one queue."""
        self.producer.publish(body, exchange="", routing_key=queue, **options)

    @property
    def producer(self) -> Producer:
        if not hasattr(self, "_producer"):
            self._producer = Producer(self.connect().channel())
        return self._producer

    def reader(self, *queues: Queue | str, prefetch: int = 0, connection: Connection | None = None, **options: Any):
        return Reader(connection or self.connect(**options), queues, prefetch)

    def waiting(self, queue: str) -> list[dict[str, Any]]:
        """The messages in a queue, the next one first."""
        return [json.loads(text) for text in reversed(self.redis.lrange(self.prefix + queue, 0, -1))]

    def bodies(self, queue: str) -> list[Any]:
        return [json.loads(message["body"]) for message in self.waiting(queue)]

    def in_flight(self) -> dict[str, int]:
        """owner -> how many messages it holds."""
        start = f"{self.prefix}_choreo.inflight."
        return {key.decode()[len(start) :]: self.redis.hlen(key) for key in self.redis.keys(start + "*")}

    def owners(self) -> list[str]:
        return [owner.decode() for owner in self.redis.zrange(f"{self.prefix}_choreo.consumers", 0, -1)]

    def close(self) -> None:
        for connection in self._connections:
            with suppress(Exception):
                connection.close()
        with suppress(redis.RedisError):
            for key in self.redis.keys(f"{self.prefix}*"):
                self.redis.delete(key)
        self.redis.close()


class Reader:
    """A consumer that keeps what it was given."""

    def __init__(self, connection: Connection, queues: tuple[Queue | str, ...], prefetch: int) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self.messages: list[Any] = []
        self.on_message: Callable[[Any], None] = lambda _: None
        # A queue given by name has no exchange: its own name is its address.
        self.queues = [queue if isinstance(queue, Queue) else Queue(queue, exchange=Exchange("")) for queue in queues]
        self.consumer = Consumer(
            self.channel,
            self.queues,
            on_message=self._received,
            accept=["json", "pickle", "application/data"],
            prefetch_count=prefetch or None,
            auto_declare=False,
        )
        for queue in self.queues:
            bound = queue.bind(self.channel)
            bound.declare() if queue.exchange.name else bound.queue_declare()
        self.consumer.consume()

    def _received(self, message: Any) -> None:
        self.messages.append(message)
        self.on_message(message)

    def drain(self, count: int = 1, timeout: float = DEADLINE) -> list[Any]:
        """Read until `count` messages have come in all, or fail."""
        while len(self.messages) < count:
            self.connection.drain_events(timeout=timeout)
        return self.messages

    def nothing(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for a while."""
        before = len(self.messages)
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=seconds)
        return len(self.messages) == before

    @property
    def bodies(self) -> list[Any]:
        return [message.payload for message in self.messages]

    def die(self) -> None:
        """As after kill -9: no more heartbeats, nothing is given back."""
        self.channel.own()._heart.end()
        self.channel._ownership = None

    def close(self) -> None:
        self.connection.close()


class Proxy:
    """
    A TCP proxy that can misbehave.

    `mode`: "ok"; "stall" holds all bytes back; "drop_down" swallows the server's answers; "refuse" accepts nobody.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._moved = threading.Condition()
        self.mode = "ok"
        self.dropped = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def set(self, mode: str) -> None:
        with self._moved:
            self.mode = mode
            self._moved.notify_all()

    def cut(self) -> None:
        """Break every connection."""
        pairs, self._pairs = self._pairs, []
        for end in (end for pair in pairs for end in pair):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.set("ok")
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == "refuse":
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._pairs.append((near, far))
            threading.Thread(target=self._pump, args=(near, far, "up"), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, "down"), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                with self._moved:
                    self._moved.wait_for(lambda: self.mode != "stall")
                if self.mode == f"drop_{direction}":
                    self.dropped += len(data)
                    continue
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                end.close()


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
