"""The store's client: for one Redis server, with or without TLS, or for the master that Sentinel names."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.sentinel import Sentinel

from choreo.errors import DeclarationError

#: Options of each client, in seconds. redis-py's defaults wait for ever.
OPTIONS = {"socket_timeout": 10, "socket_connect_timeout": 5, "health_check_interval": 25}
SENTINEL_PORT = 26379


def make_client(url: str, ssl: Mapping[str, Any] | None, transport: Mapping[str, Any]) -> Any:
    """
    A client for the URL.

    ``ssl`` is Celery's setting `broker_use_ssl`. ``transport`` is `broker_transport_options`: for Sentinel it must name
    the master. Raises `DeclarationError` for a URL or options that cannot work.
    """
    options: dict[str, Any] = dict(OPTIONS)
    if not url.startswith("unix"):
        options["socket_keepalive"] = True
    try:
        if url.startswith("sentinel://"):
            return _master(url, options | ({"ssl": True, **ssl} if ssl else {}), transport)
        if ssl and url.startswith("redis://"):
            url = f"rediss://{url.removeprefix('redis://')}"
        return redis.Redis.from_url(url, **options, **(ssl or {}))
    except ValueError as error:
        raise DeclarationError(f"choreo_store_url is no URL of a Redis server: {error}") from error


def _master(url: str, options: dict[str, Any], transport: Mapping[str, Any]) -> Any:
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
    known = {key: transport[key] for key in ("min_other_sentinels", "sentinel_kwargs") if key in transport}
    sentinel: Any = Sentinel(sentinels, **known, **options)  # type: ignore[no-untyped-call]
    return sentinel.master_for(name, redis.Redis, db=int(database))
