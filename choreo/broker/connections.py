"""How a service connects to its broker: Celery's AMQP classes, with choreo's queues, transport and options."""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery.app.amqp import AMQP, Queues
from celery.exceptions import ImproperlyConfigured
from celery.utils.functional import maybe_list
from celery.utils.text import indent as textindent
from click import ClickException
from kombu import Connection, Queue
from kombu.transport import pyamqp

from choreo.broker.queue import HandlerQueue
from choreo.broker.rabbitmq.connection import RabbitConnection, attach
from choreo.errors import DeclarationError
from choreo.masking import without_passwords
from choreo.redis_client.client import SPECIAL, sentinel_options
from choreo.redis_client.tls import scheme_of, tls_options, without_tls

#: URL scheme → choreo's own transport. See choreo/broker/redis/transport.py for its guarantees.
_TRANSPORTS = {
    "redis": "choreo.broker.redis.transport:Transport",
    "rediss": "choreo.broker.redis.transport:Transport",
    "valkey": "choreo.broker.redis.transport:Transport",
    "valkeys": "choreo.broker.redis.transport:Transport",
    "sentinel": "choreo.broker.redis.transport:SentinelTransport",
}
#: Without publisher confirms, a message that is published while the connection breaks is lost without an error.
_AMQP_OPTIONS = {"confirm_publish": True}


def joined(url: str | Iterable[str] | None) -> str:
    """A broker's URL or a list of its nodes' URLs, which Celery takes too, as one text: joined by semicolons."""
    parts = url.split(";") if isinstance(url, str) else url or ()
    return ";".join(_with_plain_scheme(part.strip()) for part in parts)


def _with_plain_scheme(url: str) -> str:
    """The URL with its scheme in lower case, as all tables of schemes have it."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme.lower()}{separator}{rest}" if separator else url


def redis_url(broker_url: str) -> str:
    """The broker's URL in the form that redis-py takes; "" if the broker is no Redis."""
    scheme, _, rest = broker_url.partition("://")
    if scheme == "redis+socket":
        path, _, query = rest.partition("?")
        return f"unix://{path}?db={parse_qs(query).get('virtual_host', ['0'])[0].strip('/')}"
    if scheme.startswith("valkey"):
        return f"{scheme.replace('valkey', 'redis')}://{rest}"
    return broker_url if scheme in ("unix", *_TRANSPORTS) else ""


def is_same_place(one: str, other: str) -> bool:
    """True if two URLs name the same server, whatever the database, user and options."""
    places = [{urlsplit(part).netloc.rpartition("@")[2].lower() for part in url.split(";")} for url in (one, other)]
    return bool(places[0] & places[1] - {""})


class BrokerConnection(Connection):
    """
    A kombu connection that uses choreo's transport on Redis, and publisher confirms on RabbitMQ.

    On Redis the connection is in clear only if nothing asks for TLS: see `choreo.redis_client.tls`.
    Raises `DeclarationError` if the URL names several Redis servers, or TLS options that do not exist.
    """

    def __init__(self, hostname: str | Iterable[str] = "localhost", *args: Any, **options: Any) -> None:
        hostname = joined(hostname)
        scheme, _, rest = hostname.partition("://")
        # `broker_transport` goes before the scheme of the URL. Without this, it would choose kombu's own transport.
        named = str(options.get("transport") or "")
        if named in _TRANSPORTS and scheme_of(hostname) not in _TRANSPORTS:
            hostname = f"{named}://{hostname.partition('://')[2] or hostname}"
            scheme, _, rest = hostname.partition("://")
        if scheme in _TRANSPORTS and scheme != "sentinel" and ";" in rest:
            places = ", ".join(urlsplit(url).netloc.rpartition("@")[2] for url in hostname.split(";"))
            raise DeclarationError(
                f"the broker is several Redis servers ({places}), which share no data: events would wait on one while "
                "workers read from another, and joins would never complete. Name one of them or, if they are replicas "
                "of each other, Sentinel: sentinel://a:26379;sentinel://b:26379."
            )
        if scheme == "sentinel" and (others := {scheme_of(url) for url in hostname.split(";")} - {"sentinel", ""}):
            raise DeclarationError(
                f"the broker is Sentinel and also {', '.join(sorted(others))}://, which is another server. Name the "
                "Sentinels only: sentinel://a:26379;sentinel://b:26379."
            )
        if scheme == "redis+socket":
            # For a URL with a plus kombu ignores the option `transport` and looks its scheme up among the aliases.
            import_module("choreo.broker.redis.transport")
            hostname, options["ssl"] = f"choreo+socket://{rest}", False
        if scheme in _TRANSPORTS:
            tls = tls_options(f"{named}://;{hostname}" if named in _TRANSPORTS else hostname, options.get("ssl"))
            if not named or named in _TRANSPORTS:
                options["transport"] = _TRANSPORTS[scheme]
            # Kombu knows TLS by other signs, and would speak in clear without them. So it gets no sign but this one.
            hostname, options["ssl"] = without_tls(hostname), tls or False
            if scheme == "sentinel":
                given = options.get("transport_options") or {}
                options["transport_options"] = {**given, **sentinel_options(tls, given)}
        if scheme in ("amqp", "amqps", "pyamqp"):
            options["transport_options"] = _AMQP_OPTIONS | (options.get("transport_options") or {})
        try:
            super().__init__(hostname, *args, **options)
        except ValueError as error:
            if "Port could not" not in str(error):
                raise
            # The error's text may be a part of the password.
            shown = without_passwords(str(hostname))
            raise DeclarationError(f"the broker's URL {shown} is none: its port is no number, or {SPECIAL}.") from None

    def create_transport(self) -> Any:
        """Kombu's transport; on RabbitMQ its connections read messages of any form."""
        transport = super().create_transport()
        if isinstance(transport, pyamqp.Transport):
            transport.Connection = RabbitConnection
            transport.register_with_event_loop = attach
            transport.get_manager = partial(_manager, transport.get_manager)
        return transport

    def switch(self, conn_str: str) -> None:
        """Switch to another node. Kombu would take its own transport, by the URL's scheme; this keeps choreo's."""
        super().switch(without_tls(conn_str) if scheme_of(conn_str) in _TRANSPORTS else conn_str)
        if scheme_of(conn_str) in _TRANSPORTS:
            self.ssl: Any = tls_options(conn_str, self.ssl) or False
        self.transport_cls: Any = _TRANSPORTS.get(str(self.transport_cls), self.transport_cls)

    def as_uri(self, *args: Any, **options: Any) -> str:
        """The URL with the usual scheme, for Flower and the worker's banner. Kombu would show the transport's path."""
        uri = str(super().as_uri(*args, **options))
        for scheme in ("sentinel", "rediss" if self.ssl else "redis"):
            uri = uri.replace(f"{_TRANSPORTS[scheme]}://", f"{scheme}://")
        return uri


class ServiceQueues(Queues):
    """
    The queues of a service. They differ from Celery's in how the worker's banner shows them.

    ``task_queue_max_priority`` is for queues that can have it: RabbitMQ refuses a quorum queue with such an argument.
    """

    def _set_max_priority(self, args: dict[str, Any]) -> None:
        if args.get("x-queue-type") != "quorum":
            super()._set_max_priority(args)

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """One line per queue: its name, its exchange, and the patterns that it is bound to."""
        lines = [_line(queue) for _, queue in sorted(self.consume_from.items())]
        if indent_first or not lines:
            return str(textindent("\n".join(lines), indent))
        return "\n".join([lines[0], textindent("\n".join(lines[1:]), indent)])

    def select(self, include: Iterable[str] | str | None) -> None:
        """Consume from these queues only. Raises `ImproperlyConfigured` if the service has no such queue."""
        for name in maybe_list(include) or ():
            self._check("-Q", name, may_be_new=self.create_missing)
        super().select(include)

    def deselect(self, exclude: Iterable[str] | str | None) -> None:
        """Do not consume from these queues. Raises `ImproperlyConfigured` for a name that looks mistyped."""
        for name in maybe_list(exclude) or ():
            self._check("-X", name, may_be_new=True)
        super().deselect(exclude)

    def _check(self, option: str, name: str, *, may_be_new: bool) -> None:
        """
        Raise `ImproperlyConfigured` if there is no such queue. ``may_be_new``: only if there is one of a similar name.

        Celery would advise ``task_create_missing_queues``. Then there is such a queue, and no event reaches it.
        """
        if name in self or name in self.aliases:
            return
        # Without the namespace, or mistyped.
        guesses = [queue for queue in self if queue.endswith(f".{name}")] or get_close_matches(name, self, n=1)
        if may_be_new and not guesses:
            return
        hint = f"did you mean {guesses[0]}?" if guesses else "is it the queue of another service?"
        raise ImproperlyConfigured(
            f"{option} {name}: there is no such queue, {hint} A service has one queue per handler, named after it: "
            f"{', '.join(sorted(self))}."
        )


class ServiceAMQP(AMQP):
    """Celery's factory of connections and queues. It makes choreo's."""

    Connection = BrokerConnection
    queues_cls = ServiceQueues

    def Queues(self, queues: Any, *args: Any, **options: Any) -> Queues:  # noqa: N802 - Celery's name
        """
        The service's queues, and the given ones: a list of queues, or a dict of names and queues or their options.

        Raises `DeclarationError` for anything else, and for a queue that has the name of a handler's.
        """
        own = {queue.name: queue for queue in self.app.runtime.topology.queues()}
        given = _by_name(queues)
        for name in given:
            if isinstance(own.get(name), HandlerQueue):
                raise DeclarationError(
                    f"task_queues names {name!r}, which is the queue of a handler of {self.app.service_name}: no event "
                    f"could be read from it. Leave it out, or give the queue of your tasks another name."
                )
        return super().Queues(own | given, *args, **options)

    def TaskConsumer(self, channel: Any, *args: Any, **options: Any) -> Any:  # noqa: N802 - Celery's name
        """
        Celery's consumer of the service's queues.

        Raises `ClickException` for a connection that is not choreo's: `celery migrate` makes such ones. It would take
        events on Redis without an owner, and set messages aside that only a worker may.
        """
        if isinstance(channel, Connection) and not isinstance(channel, BrokerConnection):
            raise ClickException(
                f"celery migrate cannot move the messages of {self.app.service_name}, a choreo service. Start its "
                f"workers with the new broker_url as well, announce events there, and let the workers of the old "
                f"broker run until its queues are empty. `choreo schedule` shows what still waits in the store."
            )
        return super().TaskConsumer(channel, *args, **options)


def _manager(celerys: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Kombu's client of RabbitMQ's management. `celery list bindings` asks for it."""
    try:
        return celerys(*args, **options)
    except ImportError as error:
        raise ClickException(
            "Listing bindings needs RabbitMQ's management plugin, and the package pyrabbit. `rabbitmqctl "
            "list_bindings` shows them without either."
        ) from error


def _by_name(queues: Any) -> dict[str, Any]:
    """The setting ``task_queues`` as a dict: the name of a queue → the queue, or its options. May be modified."""
    if isinstance(queues, Mapping):
        named = dict(queues)
    elif isinstance(queues, Iterable) and not isinstance(queues, (str, bytes)):
        named = {getattr(queue, "name", None): queue for queue in queues}
    else:
        named = {} if queues is None else {None: queues}
    for name, queue in named.items():
        if not isinstance(name, str) or not isinstance(queue, (Queue, dict)):
            raise DeclarationError(
                f'task_queues holds {queue!r}, which is no queue. Write task_queues = [Queue("mail")] with kombu\'s '
                f'Queue, or {{"mail": {{"exchange": "mail", "routing_key": "mail"}}}}.'
            )
    return named


def _line(queue: Queue) -> str:
    if not isinstance(queue, HandlerQueue) or not queue.bindings:
        return f".> {queue.name:<16} (addressed by name)"
    exchange, patterns = queue.source()
    return f".> {queue.name:<16} exchange={exchange['name']}({exchange['type']}) key={', '.join(patterns)}"
