"""Redis processes of the tests' own that `EmbeddedServer` has no word for: under Sentinel, and behind TLS."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from choreo.local.server import NoServerError, find_program, free_port
from tests.contract.tls import certificate_in
from tests.servers import free_ports
from tests.waiting import DEADLINE, eventually


def programs() -> list[str]:
    """The servers that this machine has."""
    found = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    with suppress(NoServerError):
        found.append(os.fspath(find_program()))
    return [program for program in found if program]


@contextmanager
def running(*arguments: object, answers: Callable[[], object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers, between `with` and the end of it. Skips where no server of this machine can do it."""
    for program in programs():
        with log.open("ab") as out:
            process = subprocess.Popen([program, *map(str, arguments)], stdout=out, stderr=out, cwd=log.parent)
        try:
            eventually(lambda p=process: p.poll() is not None or succeeds(answers))
            if process.poll() is None:
                yield process
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
    master, replica, sentinel = free_ports(3)
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
def behind_tls(directory: Path, *options: object) -> Iterator[tuple[int, Path]]:
    """A server that speaks TLS only: its port, and the certificate to trust. ``options`` are more of the server's."""
    (certificate, key), port = certificate_in(directory), free_port()
    client = redis.Redis(port=port, ssl=True, ssl_ca_certs=str(certificate))
    files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate)
    more = ("--tls-auth-clients", "no", "--save", "", "--bind", "127.0.0.1", *options)
    with running("--port", 0, "--tls-port", port, *files, *more, answers=client.ping, log=directory / "tls.log"):
        yield port, certificate


class Cluster:
    """A Redis Cluster of three masters, the first of which has a replica. `url` names its second node."""

    #: The first slot of each master, and the end.
    STARTS = (0, 5461, 10923, 16384)

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.nodes: list[Any] = [redis.Redis(port=port, decode_responses=True) for port in ports]
        self.url = f"redis://127.0.0.1:{ports[1]}/0"
        #: The process of each node.
        self.processes: list[subprocess.Popen[bytes]] = []

    def build(self, bus_ports: list[int]) -> None:
        """Give each master its slots, let the nodes meet, and wait until they agree."""
        *masters, replica = self.nodes
        for number, node in enumerate(masters):
            first, end = self.STARTS[number : number + 2]
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port, bus_port in zip(self.ports[1:], bus_ports[1:], strict=True):
            masters[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus_port)
        eventually(lambda: succeeds(lambda: replica.execute_command("CLUSTER", "REPLICATE", self.id_of(0))))
        eventually(lambda: all(self.is_whole(node) for node in self.nodes))
        eventually(lambda: replica.info("replication")["master_link_status"] == "up")

    def id_of(self, number: int) -> str:
        """The id of a node."""
        return str(self.nodes[number].execute_command("CLUSTER", "MYID"))

    def is_whole(self, node: Any) -> bool:
        """Whether this node knows the others, and that all slots are served."""
        facts = node.execute_command("CLUSTER", "INFO")
        facts = facts if isinstance(facts, dict) else dict(line.split(":") for line in facts.splitlines() if line)
        return (facts["cluster_state"], int(facts["cluster_known_nodes"])) == ("ok", len(self.nodes))

    def replica_is_in_step(self) -> bool:
        """Whether the replica has all that its master has."""
        here, there = (node.info("replication") for node in (self.nodes[0], self.nodes[3]))
        return bool(here["master_repl_offset"] == there["slave_repl_offset"])

    def owner(self, slot: int) -> int:
        """The number of the master that has this slot."""
        return next(number for number in range(3) if slot < self.STARTS[number + 1])

    def handler_on(self, number: int) -> str:
        """A handler whose keys are on this master."""
        names = (f"payment.charge_{count}" for count in itertools.count())
        return next(name for name in names if self.owner(self.slot(name)) == number)

    def slot(self, handler: str) -> int:
        """The slot of all keys of a handler."""
        return int(key_slot(f"{{{handler}}}".encode()))

    @contextmanager
    def moving(self, slot: int, source: int, target: int) -> Iterator[Callable[[int], None]]:
        """The slot is on its way, and gets there at the end. Gives a function that moves some of its keys."""
        there, here = self.nodes[target], self.nodes[source]
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

        def move(most: int) -> None:
            keys = here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, most)
            if keys:
                here.execute_command("MIGRATE", "127.0.0.1", self.ports[target], "", 0, 5000, "KEYS", *keys)

        try:
            yield move
        finally:
            move(1_000_000)
            for node in (there, here):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))


@contextmanager
def clustered(directory: Path, timeout: int = 60_000) -> Iterator[Cluster]:
    """A cluster between `with` and the end of it. Its nodes wait ``timeout`` ms before they take another for dead."""
    ports = free_ports(8)
    ports, bus_ports = ports[:4], ports[4:]
    cluster = Cluster(ports)
    with ExitStack() as stack:
        for node, port, bus_port in zip(cluster.nodes, ports, bus_ports, strict=True):
            place = directory / str(port)
            place.mkdir()
            options = ["--port", port, "--cluster-port", bus_port, "--bind", "127.0.0.1", "--save", ""]
            options += ["--cluster-enabled", "yes", "--cluster-node-timeout", timeout, "--repl-diskless-sync-delay", 0]
            options += ["--dir", place, "--cluster-replica-validity-factor", 0]
            cluster.processes.append(stack.enter_context(running(*options, answers=node.ping, log=place / "log")))
        cluster.build(bus_ports)
        yield cluster
