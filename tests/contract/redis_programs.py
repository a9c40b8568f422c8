"""Redis processes of the tests' own that `EmbeddedServer` has no word for: under Sentinel, and behind TLS."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from choreo.local.server import NoServerError, find_program, free_port
from tests.waiting import DEADLINE, eventually


def programs() -> list[str]:
    """The servers that this machine has."""
    found = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    with suppress(NoServerError):
        found.append(os.fspath(find_program()))
    return [program for program in found if program]


@contextmanager
def running(*arguments: object, answers: Callable[[], object], log: Path) -> Iterator[None]:
    """A process that answers, between `with` and the end of it. Skips where no server of this machine can do it."""
    for program in programs():
        with log.open("ab") as out:
            process = subprocess.Popen([program, *map(str, arguments)], stdout=out, stderr=out, cwd=log.parent)
        try:
            eventually(lambda p=process: p.poll() is not None or succeeds(answers))
            if process.poll() is None:
                yield
                return
        finally:
            process.kill()
            process.wait(DEADLINE)
    message = f"no Redis here that starts with {' '.join(map(str, arguments))}: {log.read_text()[-500:]}"
    pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)


def succeeds(call: Callable[[], object]) -> bool:
    """Whether Redis does it, and says so."""
    with suppress(redis.RedisError):
        return bool(call())
    return False


@contextmanager
def under_sentinel(directory: Path) -> Iterator[tuple[str, redis.Redis]]:
    """A master named "shop" with a replica in step with it; the URL of its Sentinel, and a client for that."""
    master, replica, sentinel = (free_port() for _ in range(3))
    clients = [redis.Redis(port=port, decode_responses=True) for port in (master, replica, sentinel)]
    settings = directory / "sentinel.conf"
    settings.write_text(
        f"port {sentinel}\nsentinel monitor shop 127.0.0.1 {master} 1\n"
        f"sentinel down-after-milliseconds shop 1000\nsentinel failover-timeout shop 3000\n"
    )
    quiet = ("--save", "", "--dir", directory, "--bind", "127.0.0.1")
    with (
        running("--port", master, *quiet, answers=clients[0].ping, log=directory / "master.log"),
        running(
            *("--port", replica, "--replicaof", "127.0.0.1", master, *quiet),
            answers=lambda: clients[1].info("replication")["master_link_status"] == "up",
            log=directory / "replica.log",
        ),
        running(
            *(settings, "--sentinel"),
            answers=lambda: clients[2].sentinel_master("shop")["num-slaves"] == 1,
            log=directory / "sentinel.log",
        ),
    ):
        yield f"sentinel://127.0.0.1:{sentinel}/0", clients[2]


@contextmanager
def behind_tls(directory: Path) -> Iterator[tuple[int, Path]]:
    """A server that speaks TLS only: its port, and the certificate to trust."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    certificate, key, port = directory / "cert.pem", directory / "key.pem", free_port()
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    subprocess.run(
        [openssl, *"req -x509 -newkey rsa:2048 -nodes -days 1".split(), "-keyout", key, "-out", certificate, *names],
        check=True,
        capture_output=True,
    )
    client = redis.Redis(port=port, ssl=True, ssl_ca_certs=str(certificate))
    files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate)
    more = ("--tls-auth-clients", "no", "--save", "", "--bind", "127.0.0.1")
    with running("--port", 0, "--tls-port", port, *files, *more, answers=client.ping, log=directory / "tls.log"):
        yield port, certificate
