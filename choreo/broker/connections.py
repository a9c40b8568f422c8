"""How a service reaches its broker: Celery's AMQP toolbox, with choreo's queues and a safe connection."""

from collections.abc import Iterable
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery.app.amqp import AMQP, Queues
from celery.utils.text import indent as textindent
from kombu import Connection, Queue

from choreo.broker.queue import HandlerQueue
from choreo.errors import DeclarationError

#: For these schemes choreo brings its own transport; see choreo/broker/redis/transport.py for the reasons.
_TRANSPORTS = {
    "redis": "choreo.broker.redis.transport:Transport",
    "rediss": "choreo.broker.redis.transport:Transport",
    "valkey": "choreo.broker.redis.transport:Transport",
    "valkeys": "choreo.broker.redis.transport:Transport",
    "sentinel": "choreo.broker.redis.transport:SentinelTransport",
}
#: Without confirms RabbitMQ loses what is published while a connection breaks, and nobody is told.
_AMQP_OPTIONS = {"confirm_publish": True}


def joined(url: str | Iterable[str] | None) -> str:
    """A broker's URL or, as Celery takes it too, the URLs of its nodes: one text, with semicolons in between."""
    return url if isinstance(url, str) else ";".join(url or ())


def redis_url(broker_url: str) -> str:
    """The URL of a broker as Redis's own clients write it; "" where the broker is no Redis."""
    scheme, _, rest = broker_url.partition("://")
    if scheme == "redis+socket":
        path, _, query = rest.partition("?")
        return f"unix://{path}?db={parse_qs(query).get('virtual_host', ['0'])[0].strip('/')}"
    if scheme.startswith("valkey"):
        return f"{scheme.replace('valkey', 'redis')}://{rest}"
    return broker_url if scheme in ("unix", *_TRANSPORTS) else ""


class BrokerConnection(Connection):
    """
    A kombu connection that uses choreo's transport on Redis, and publisher confirms on RabbitMQ.

    Raises `DeclarationError` where the broker is several Redis servers.
    """

    def __init__(self, hostname: str | Iterable[str] = "localhost", *args: Any, **options: Any) -> None:
        hostname = joined(hostname)
        scheme, _, rest = hostname.partition("://")
        if scheme in _TRANSPORTS and scheme != "sentinel" and ";" in rest:
            places = ", ".join(urlsplit(url).netloc.rpartition("@")[2] for url in hostname.split(";"))
            raise DeclarationError(
                f"the broker is several Redis servers ({places}): what one of them holds the others do not know of, so "
                "that events would wait where nobody looks, and joins fall apart. Name one of them or, where they are "
                "copies of each other, Sentinel: sentinel://a:26379;sentinel://b:26379."
            )
        if scheme == "redis+socket":
            # For a URL with a plus kombu goes by the URL alone; the transport has an alias for that.
            import_module("choreo.broker.redis.transport")
            hostname = f"choreo+socket://{rest}"
        if scheme in _TRANSPORTS and not options.get("transport"):
            options["transport"] = _TRANSPORTS[scheme]
        if scheme in ("amqp", "amqps", "pyamqp"):
            options["transport_options"] = _AMQP_OPTIONS | (options.get("transport_options") or {})
        super().__init__(hostname, *args, **options)

    def switch(self, conn_str: str) -> None:
        """Go on to another node. Kombu goes by the URL alone then, and takes its own transport."""
        super().switch(conn_str)
        self.transport_cls: Any = _TRANSPORTS.get(str(self.transport_cls), self.transport_cls)

    def as_uri(self, *args: Any, **options: Any) -> str:
        """The URL by the scheme that everybody knows (Flower, the worker's banner), not by the transport's path."""
        uri = str(super().as_uri(*args, **options))
        for scheme in ("sentinel", "rediss" if self.ssl else "redis"):
            uri = uri.replace(f"{_TRANSPORTS[scheme]}://", f"{scheme}://")
        return uri


class ServiceQueues(Queues):
    """The queues of a service, as the worker's banner shows them."""

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """Where each queue gets its messages from."""
        lines = [_line(queue) for _, queue in sorted(self.consume_from.items())]
        if indent_first or not lines:
            return str(textindent("\n".join(lines), indent))
        return "\n".join([lines[0], textindent("\n".join(lines[1:]), indent)])


class ServiceAMQP(AMQP):
    """Celery asks this for connections and queues."""

    Connection = BrokerConnection
    queues_cls = ServiceQueues

    def Queues(self, queues: Any, *args: Any, **options: Any) -> Queues:  # noqa: N802 - Celery's name
        return super().Queues([*self.app.runtime.topology.queues(), *(queues or ())], *args, **options)


def _line(queue: Queue) -> str:
    if not isinstance(queue, HandlerQueue) or not queue.bindings:
        return f".> {queue.name:<16} (addressed by name)"
    exchange, patterns = queue.source()
    return f".> {queue.name:<16} exchange={exchange['name']}({exchange['type']}) key={', '.join(patterns)}"
