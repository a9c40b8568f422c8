"""The store's client: for a Redis server, with or without TLS, the master that Sentinel names, or a cluster."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.sentinel import Sentinel

from choreo.errors import DeclarationError
from choreo.redis_client.cluster import cluster_of, is_node
from choreo.redis_client.tls import scheme_of, tls_options, without_tls

#: Options of each client, in seconds. redis-py's defaults wait for ever.
OPTIONS = {"socket_timeout": 10, "socket_connect_timeout": 5, "health_check_interval": 25}
SENTINEL_PORT = 26379
#: Why the port of a URL may be no number.
SPECIAL = "its password holds a character such as / # ? that must be written as %2F %23 %3F"
_SERVERS = ("redis", "rediss", "valkey", "valkeys")


def find_client(url: str, ssl: Mapping[str, Any] | bool | None, transport: Mapping[str, Any]) -> Any:
    """
    A client for the URL, or for the whole cluster if the URL names a node of one. It connects, to find that out.

    Several URLs, separated by semicolons, are nodes of one cluster: the first that answers is asked. The parameters are
    those of `make_client`. Raises `DeclarationError` as that does, and redis-py's errors if no server can be reached.
    """
    nodes = url.split(";")
    if scheme_of(url) not in _SERVERS:
        return make_client(url, ssl, transport)
    for node in nodes:
        client = make_client(node, ssl, transport)
        try:
            found = is_node(client)
        except (redis.ConnectionError, redis.TimeoutError):
            if node is nodes[-1]:
                raise
        except redis.ResponseError as error:
            number = _database(client)
            if number and is_node(_first_database(client)):
                raise _no_database(number) from error
            raise
        else:
            return _cluster(url, ssl, client) if found else _only(nodes, client)
    raise AssertionError("unreachable")


def _only(nodes: list[str], client: Any) -> Any:
    """The client, unless it is that of one of several servers."""
    if len(nodes) > 1:
        places = ", ".join(urlsplit(node).netloc.rpartition("@")[2] for node in nodes)
        raise DeclarationError(
            f"choreo_store_url names several Redis servers ({places}). They are no cluster, so they share no data. "
            f"Name one of them, nodes of one Redis Cluster, or Sentinels: sentinel://host:26379"
        )
    return client


def _cluster(url: str, ssl: Mapping[str, Any] | bool | None, client: Any) -> Any:
    if _database(client):
        raise _no_database(_database(client))
    client.close()
    tls = tls_options(url, ssl)
    return cluster_of([_address(node, tls) for node in without_tls(url).split(";")], _options() | tls)


def _database(client: Any) -> int:
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def _first_database(client: Any) -> Any:
    """The client, which now asks for database 0."""
    client.connection_pool.connection_kwargs["db"] = 0
    client.connection_pool.reset()
    return client


def _no_database(number: int) -> DeclarationError:
    return DeclarationError(
        f"choreo_store_url names database {number} of a Redis Cluster, which has database 0 only: end the URL with /0, "
        f"and keep platforms apart by choreo_namespace"
    )


def make_client(url: str, ssl: Mapping[str, Any] | bool | None, transport: Mapping[str, Any]) -> Any:
    """
    A client for the URL.

    ``ssl`` is Celery's setting `broker_use_ssl`; see `choreo.redis_client.tls` for what else asks for TLS.
    ``transport`` is `broker_transport_options`: for Sentinel it must name the master. Raises `DeclarationError` for a
    URL or options that cannot work.
    """
    tls, url, scheme = tls_options(url, ssl), without_tls(url), scheme_of(url)
    options = dict(OPTIONS) if scheme == "unix" else _options()
    try:
        if scheme == "sentinel":
            return _master(url, options, tls, transport)
        if scheme in _SERVERS:
            url = _address(url, tls)
        return redis.Redis.from_url(url, **options, **tls)
    except ValueError as error:
        # A password with a special character may be a part of the error's text, and of its traceback.
        reason = str(error) if "Port could not" not in str(error) else "its port is no number, or " + SPECIAL
        raise DeclarationError(f"choreo_store_url is no URL of a Redis server: {reason}") from None


def _options() -> dict[str, Any]:
    return {**OPTIONS, "socket_keepalive": True}


def _address(url: str, tls: Mapping[str, Any]) -> str:
    return f"{'rediss' if tls else 'redis'}://{url.partition('://')[2]}"


def sentinel_options(tls: Mapping[str, Any], transport: Mapping[str, Any]) -> dict[str, Any]:
    """
    The options `min_other_sentinels` and `sentinel_kwargs` of ``transport``, for redis-py's `Sentinel`.

    With TLS to the master, the Sentinels are spoken to over TLS as well, unless `sentinel_kwargs` has ``ssl: False``.
    """
    known = {key: transport[key] for key in ("min_other_sentinels", "sentinel_kwargs") if key in transport}
    kwargs = dict(known.get("sentinel_kwargs") or {})
    if tls and kwargs.get("ssl", True):
        timeouts = {name: value for name, value in OPTIONS.items() if name.startswith("socket_")}
        known["sentinel_kwargs"] = {**timeouts, "ssl": True, **tls, **kwargs}
    return known


def _master(url: str, options: dict[str, Any], tls: Mapping[str, Any], transport: Mapping[str, Any]) -> Any:
    name = transport.get("master_name")
    if not name:
        raise DeclarationError(
            "Sentinel may watch several masters, and no setting names the master of the store. Name it: "
            'broker_transport_options = {"master_name": "mymaster"} in celeryconfig.py, or give choreo_store_url = '
            '"redis://..." another address.'
        )
    parts = [urlsplit(part) for part in url.split(";")]
    sentinels = [(part.hostname or "localhost", part.port or SENTINEL_PORT) for part in parts]
    database = next((part.path.strip("/") for part in parts if part.path.strip("/")), "0")
    login = {"username": parts[0].username, "password": parts[0].password}
    options |= {key: unquote(value) for key, value in login.items() if value}
    if tls:
        options |= {"ssl": True, **tls}
    sentinel: Any = Sentinel(sentinels, **sentinel_options(tls, transport), **options)  # type: ignore[no-untyped-call]
    return sentinel.master_for(name, redis.Redis, db=int(database))
