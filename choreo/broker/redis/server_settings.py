"""Checks the server settings under which Redis drops messages, when a consumer starts."""

import logging
from typing import Any

from redis.exceptions import ResponseError

from choreo.redis_client.evictions import watch
from choreo.redis_client.wire import Wire

logger = logging.getLogger("choreo.broker")

_warned: set[str] = set()


def check(wire: Wire, server: str) -> None:
    """
    Log a warning for each setting under which Redis drops messages. Once per process and server.

    `choreo.redis_client.evictions.watch` looks for evictions: here, and while the worker runs.
    """
    if server in _warned:
        return
    _warned.add(server)
    watch(server, lambda: wire.command("INFO"))
    persistence = _setting(wire, "appendonly")
    if persistence == "no" and _setting(wire, "save") == "":
        logger.warning(
            "Redis at %s keeps nothing on disk: a restart loses all messages. "
            "Set `appendonly yes` (or, to lose the last minutes only, a `save` schedule)",
            server,
        )


def _setting(wire: Wire, name: str) -> str | None:
    """The value of a setting; None if the server refuses to tell it."""
    try:
        answer: Any = wire.command("CONFIG", "GET", name)
    except ResponseError as exc:
        logger.debug("cannot read the setting %s of Redis: %s", name, exc)
        return None
    pairs = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
    value = pairs.get(name.encode())
    return None if value is None else value.decode()
