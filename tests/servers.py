"""The real servers that tests talk to. Each test gets a corner of its own, and nothing else is ever touched."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import kombu
import pytest

from tests.waiting import DEADLINE

#: A RabbitMQ that tests may make vhosts on. CI must have one.
RABBITMQ_URL = os.environ.get("CHOREO_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672")


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 that are free, and all different: asked for one by one, two could be the same."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def require_rabbitmq() -> str:
    """The URL of a RabbitMQ server; skips where there is none, and fails in CI."""
    try:
        with kombu.Connection(RABBITMQ_URL, connect_timeout=10) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
    except Exception as error:
        address = urlsplit(RABBITMQ_URL)
        message = (
            f"no RabbitMQ at {address.hostname}:{address.port} ({error!r}). Start one, for example with "
            f"`docker run -p 5672:5672 rabbitmq:4`, or set CHOREO_TEST_RABBITMQ_URL."
        )
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return RABBITMQ_URL


class Vhosts:
    """
    Fresh vhosts of the server that `rabbitmqctl` reaches.

    Each call of `rabbitmqctl` starts Erlang, which takes half a second of a processor: so one call makes several, and
    deletes those that were used.
    """

    #: How many are made at once.
    BATCH = 6

    def __init__(self) -> None:
        self._fresh: dict[str, list[str]] = {}
        self._used: list[str] = []

    def take(self, user: str) -> str:
        """A vhost in which this user may do everything. Raises `OSError` or `SubprocessError` if there is none."""
        fresh = self._fresh.setdefault(user, [])
        if not fresh:
            fresh += self._call([f"choreo-test-{uuid4().hex[:8]}" for _ in range(self.BATCH)], user)
        return fresh.pop()

    def give_back(self, vhost: str) -> None:
        self._used.append(vhost)

    def close(self) -> None:
        """Delete all of them."""
        self._used += [vhost for fresh in self._fresh.values() for vhost in fresh]
        self._fresh.clear()
        if self._used:
            self._call([], "")

    def _call(self, new: list[str], user: str) -> list[str]:
        used, self._used = self._used, []
        program = _PROGRAM.format(used=_binaries(used), new=_binaries(new), user=_binary(user))
        subprocess.run(["rabbitmqctl", "-q", "eval", program], check=True, capture_output=True, timeout=DEADLINE)
        return new


#: In Erlang, for `rabbitmqctl eval`.
_PROGRAM = """
    [rabbit_vhost:delete(V, <<"tests">>) || V <- {used}],
    [begin
        rabbit_vhost:add(V, <<"tests">>),
        rabbit_auth_backend_internal:set_permissions({user}, V, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)
    end || V <- {new}].
"""


def _binary(text: str) -> str:
    return f'<<"{text}">>'


def _binaries(texts: list[str]) -> str:
    return f"[{', '.join(map(_binary, texts))}]"


#: Those of this process. A fixture of the session closes it.
VHOSTS = Vhosts()


@contextmanager
def rabbitmq_vhost(url: str) -> Iterator[str]:
    """A fresh vhost for one test where `rabbitmqctl` is at hand; otherwise the server's own, with its queues shared."""
    try:
        vhost = VHOSTS.take(urlsplit(url).username or "guest")
    except (FileNotFoundError, subprocess.SubprocessError):
        yield url
        return
    try:
        yield f"{url.rstrip('/')}/{vhost}"
    finally:
        VHOSTS.give_back(vhost)
