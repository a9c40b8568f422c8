"""
A stand-in for a Docker engine: "containers" that are processes of this machine.

`LocalDockerClient` has as much of docker-py's interface as pytest-celery and pytest-docker-tools use, so the tests and
the plugin run unchanged. What a container gives here and what it does not:

- Its process sees only the environment it was given, a hostname of its own (in HOSTNAME and in `%h`), and volumes in
  the place where it expects them.
- A published port is one of 127.0.0.1. The address of another container (its hostname and port) works in environment
  variables, which is where an address is handed to a service.
- Nothing is isolated: it is this user, this file system and this Python with what is installed in it.
- Nothing outlives the tests, not even after `kill -9`: each process is under a guard of choreo's.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from choreo.local.guard import Guard
from choreo.local.server import find_program
from tests.servers import free_ports
from tests.waiting import DEADLINE

#: What a process needs from this machine. A container would not see the rest of a developer's environment either.
INHERITED = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")
#: Programs are looked for beside this Python first, so `celery` and `python` are those that run the tests.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

#: How long a process may take to end after SIGTERM; Docker would not put an end to its patience after `kill -s TERM`.
GRACE = 30.0


class LocalDockerClient:
    """What `docker.from_env()` returns, as far as the plugins use it."""

    def __init__(self) -> None:
        self._containers: list[LocalContainer] = []
        self._volumes: dict[str, LocalVolume] = {}
        self._contexts: dict[str, Path] = {}
        self.containers = SimpleNamespace(run=self._run, create=self._create, list=lambda **_: [])
        self.images = SimpleNamespace(build=self._build, pull=_image, get=_image)
        self.networks = SimpleNamespace(create=_network)
        self.volumes = SimpleNamespace(create=self._volume)

    def _build(self, path: str, tag: str = "", **_: Any) -> tuple[SimpleNamespace, list[Any]]:
        # Nothing is built. What such a container finds in its working directory is what the image is built from.
        image = _image(tag or f"local-{uuid4().hex[:12]}")
        self._contexts[image.id] = Path(path)
        return image, []

    def _volume(self, name: str, **_: Any) -> LocalVolume:
        self._volumes[name] = LocalVolume(name)
        return self._volumes[name]

    def _create(self, volumes: Mapping[str, Any], **_: Any) -> SimpleNamespace:
        # A container that is never started: pytest-docker-tools fills a volume through one, and removes it.
        (name,) = volumes
        return SimpleNamespace(put_archive=self._volumes[name].put_archive, remove=lambda **_: None)

    def _run(self, image: str, volumes: Mapping[str, Any] | None = None, **options: Any) -> LocalContainer:
        binds = {bind["bind"]: self._volumes[name].path for name, bind in (volumes or {}).items()}
        container = LocalContainer(binds, self._contexts.get(image), self._containers, **options)
        self._containers.append(container)
        return container


class LocalVolume:
    """A directory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path(tempfile.mkdtemp(prefix="choreo-volume-"))
        self._janitor = Guard(rmtree=self.path)

    def put_archive(self, _path: str, data: io.BytesIO) -> None:
        with tarfile.open(mode="r:*", fileobj=data) as archive:
            archive.extractall(self.path, filter="data")

    def remove(self, *_: Any) -> None:
        self._janitor.stop()


class LocalContainer:
    """A process under a guard, with what docker-py's `Container` offers."""

    def __init__(
        self,
        binds: Mapping[str, Path],
        context: Path | None,
        others: Sequence[LocalContainer],
        *,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        ports: Mapping[str, Any] | None = None,
        network: str = "local",
        labels: Mapping[str, str] | None = None,
        **_: Any,
    ) -> None:
        self.id = uuid4().hex * 2
        self.name = f"local-{self.id[:12]}"
        self.labels = dict(labels or {})
        self.hostname = self.id[:12]
        self.ports = dict(zip(ports or {}, free_ports(len(ports or {})), strict=True))
        self._binds = binds
        self._others = others
        self._directory = Path(tempfile.mkdtemp(prefix="choreo-container-"))
        self._janitor = Guard(rmtree=self._directory)
        self._log = self._directory / "log"
        self._cwd = context or self._directory
        self._environment = {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            "PATH": PATH,
            "HOSTNAME": self.hostname,
            **{name: self._placed(str(value)) for name, value in (environment or {}).items()},
        }
        prepare = PROGRAMS.get(command[0], _as_it_is)
        self._command = prepare(self, [word.replace("%h", self.hostname) for word in command])
        self._network = network
        self._guard = self._started()

    @property
    def attrs(self) -> dict[str, Any]:
        published = {port: [{"HostIp": "127.0.0.1", "HostPort": str(number)}] for port, number in self.ports.items()}
        return {
            "Config": {"Hostname": self.hostname, "Env": [], "Labels": self.labels},
            "HostConfig": {"PortBindings": {}},
            "Mounts": [],
            "NetworkSettings": {"Networks": {self._network: {"IPAddress": "127.0.0.1"}}, "Ports": published},
            "State": {"ExitCode": self._guard.poll() or 0},
        }

    @property
    def status(self) -> str:
        return "running" if self._guard.poll() is None else "exited"

    def reload(self) -> None:
        """Nothing is remembered that could be out of date."""

    def logs(self, **_: Any) -> bytes:
        return self._log.read_bytes()

    def kill(self, signal: str | int | None = None) -> None:
        number = _number(signal)
        if number == 9:
            self._guard.kill()
        elif number == 15:
            self._guard.end()
        else:
            self._guard.send(number)

    def stop(self, **_: Any) -> None:
        self._guard.stop()

    def restart(self, **_: Any) -> None:
        self.stop()
        self._guard = self._started()

    def wait(self, timeout: float | None = None) -> dict[str, int]:
        return {"StatusCode": self._guard.wait(timeout)}

    def remove(self, force: bool = False, **_: Any) -> None:
        self._guard.kill() if force else self._guard.stop()
        self._janitor.stop()

    def exec_run(self, cmd: str | Sequence[str], **_: Any) -> tuple[int, bytes]:
        if isinstance(cmd, str) and cmd.startswith("cat /proc/net/tcp"):
            return 0, self._listening().encode()
        done = subprocess.run(
            shlex.split(cmd) if isinstance(cmd, str) else cmd,
            cwd=self._cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE,
        )
        return done.returncode, done.stdout

    def write(self, name: str, text: str) -> None:
        """Put a file, for this user's eyes only, into the directory where the process starts."""
        # mkdtemp has made a directory that nobody else can enter.
        (self._directory / name).write_text(text)

    def _started(self) -> Guard:
        return Guard(
            self._command, log=self._log, cwd=self._cwd, env=self._environment, grace=GRACE, before=[self._janitor]
        )

    def _placed(self, text: str) -> str:
        for bind, path in self._binds.items():
            text = text.replace(bind, str(path))
        for other in self._others:
            for port, number in other.ports.items():
                text = text.replace(f"{other.hostname}:{port.removesuffix('/tcp')}", f"127.0.0.1:{number}")
        return text

    def _listening(self) -> str:
        """Say like /proc/net/tcp which of the container's own ports are open."""
        open_ports = [int(port.removesuffix("/tcp")) for port, number in self.ports.items() if _is_open(number)]
        return "\n".join(f"0: 00000000:{port:04X} 00000000:0000 0A" for port in open_ports)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _as_it_is(container: LocalContainer, command: list[str]) -> list[str]:
    return command


def _redis_server(container: LocalContainer, command: list[str]) -> list[str]:
    """Run the server that this machine has, as the image's command says, but on a port of this machine."""
    settings = {"bind": "127.0.0.1", "port": str(container.ports["6379/tcp"]), "dir": "./"}
    for name, value in re.findall(r"--(\S+)\n(.*)", "\n".join(command)):
        settings[name] = value or '""'
    # A file, because the password is in it, and every user of the machine can read a command line.
    container.write("server.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))
    return [find_program(), "server.conf"]


#: Programs that a container's image would bring along, and this machine has in another place or shape.
PROGRAMS: dict[str, Callable[[LocalContainer, list[str]], list[str]]] = {"redis-server": _redis_server}


def _number(name: str | int | None) -> int:
    if name is None:
        return int(signal.SIGKILL)
    return name if isinstance(name, int) else int(signal.Signals[name])


def _image(repository: str = "", **_: Any) -> SimpleNamespace:
    return SimpleNamespace(id=repository, tags=[repository])


def _network(name: str, **_: Any) -> SimpleNamespace:
    return SimpleNamespace(name=name, id=name, remove=lambda: None)
