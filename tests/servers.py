"""The real servers that tests talk to. Each test gets a corner of its own, and nothing else is ever touched."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import kombu
import pytest

from tests.waiting import DEADLINE

#: A RabbitMQ that tests may make vhosts on. CI must have one.
RABBITMQ_URL = os.environ.get("CHOREO_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672")


def require_rabbitmq() -> str:
    """The URL of a RabbitMQ server; skips where there is none, and fails in CI."""
    try:
        with kombu.Connection(RABBITMQ_URL, connect_timeout=2) as connection:
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


@contextmanager
def rabbitmq_vhost(url: str) -> Iterator[str]:
    """A fresh vhost for one test where `rabbitmqctl` is at hand; otherwise the server's own, with its queues shared."""
    vhost = f"choreo-test-{uuid4().hex[:8]}"
    try:
        subprocess.run(["rabbitmqctl", "-q", "add_vhost", vhost], check=True, capture_output=True, timeout=DEADLINE)
    except (FileNotFoundError, subprocess.SubprocessError):
        yield url
        return
    user = urlsplit(url).username or "guest"
    subprocess.run(
        ["rabbitmqctl", "-q", "set_permissions", "-p", vhost, user, ".*", ".*", ".*"], check=True, timeout=30
    )
    try:
        yield f"{url.rstrip('/')}/{vhost}"
    finally:
        subprocess.run(["rabbitmqctl", "-q", "delete_vhost", vhost], check=True, capture_output=True, timeout=DEADLINE)
