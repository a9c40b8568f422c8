"""The brokers: an embedded Redis (or a given one), and a temporary vhost on RabbitMQ."""

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import kombu
import redis

from bench.processes import find_process, process_cpu
from choreo.local.server import EmbeddedServer


class Broker(Protocol):
    """A broker under measurement."""

    url: str
    version: str

    def wipe(self) -> None:
        """Delete all data, before the next session."""

    def cpu(self) -> float | None:
        """Return the CPU seconds that the broker has used; None if that is not known."""


class Redis:
    """A Redis or Valkey. Its database is flushed between sessions."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url)
        info = self.client.info()
        kind = "Valkey" if "valkey_version" in info else "Redis"
        self.version = f"{kind} {info.get('valkey_version') or info['redis_version']}"

    def wipe(self) -> None:
        """Flush the database."""
        self.client.flushdb()

    def cpu(self) -> float | None:
        """Return the CPU seconds that the server has used."""
        info = self.client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def memory(self) -> int:
        """Return the used memory in bytes."""
        return int(self.client.info("memory")["used_memory"])


@contextmanager
def redis_broker(url: str | None) -> Iterator[Redis]:
    """Context manager: the Redis at this URL, which must be empty, or an embedded one that ends with the block."""
    if url is None:
        with EmbeddedServer() as server:
            yield Redis(server.url)
        return
    broker = Redis(url)
    if keys := broker.client.dbsize():
        raise SystemExit(f"{url} holds {keys} keys, and the benchmark flushes its database. Name an empty one.")
    yield broker
    broker.wipe()


class RabbitMQ:
    """A vhost on a RabbitMQ server, made and deleted with ``rabbitmqctl``."""

    def __init__(self, url: str) -> None:
        self._server = url.rstrip("/")
        parts = urlsplit(self._server)
        self._user = parts.username or "guest"
        if parts.path:
            raise SystemExit(f"{url} names a vhost; the benchmark makes its own. Leave it out.")
        with kombu.Connection(f"{self._server}//", connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            properties: Any = connection.connection.server_properties
            self.version = f"RabbitMQ {properties.get('version', '?')}"
        self._pid = find_process("beam.smp")
        self._vhost = ""

    @property
    def url(self) -> str:
        """The URL of the current vhost."""
        return f"{self._server}/{self._vhost}"

    def wipe(self) -> None:
        """Delete the vhost, and make a new one."""
        self.close()
        self._vhost = f"choreo-bench-{uuid4().hex[:8]}"
        _rabbitmqctl("add_vhost", self._vhost)
        _rabbitmqctl("set_permissions", "-p", self._vhost, self._user, ".*", ".*", ".*")

    def cpu(self) -> float | None:
        """Return the CPU seconds of the server's process; None if there is none on this machine."""
        return process_cpu(self._pid) if self._pid else None

    def close(self) -> None:
        """Delete the vhost."""
        if self._vhost:
            with contextlib.suppress(subprocess.SubprocessError):
                _rabbitmqctl("delete_vhost", self._vhost)
            self._vhost = ""


@contextmanager
def rabbitmq_broker(url: str) -> Iterator[RabbitMQ | None]:
    """Context manager: a vhost that is deleted at the end. Yields None, and prints why, if there is no RabbitMQ."""
    try:
        broker = RabbitMQ(url)
        broker.wipe()
    except (OSError, kombu.exceptions.OperationalError, subprocess.SubprocessError) as error:
        print(f"RabbitMQ is left out: {error!r}. Name one with --rabbitmq; rabbitmqctl must be on PATH.")
        yield None
        return
    try:
        yield broker
    finally:
        broker.close()


def _rabbitmqctl(*arguments: str) -> None:
    subprocess.run(["rabbitmqctl", "-q", *arguments], check=True, capture_output=True, timeout=30)
