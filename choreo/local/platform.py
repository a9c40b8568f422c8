"""
Runs all services of a package on one machine: one real `celery worker` process per service.

It is for developers, demos and tests. In production each service is deployed by itself.
"""

import importlib.util
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kombu.utils.url import maybe_sanitize_url

from choreo.broker.connections import BrokerConnection
from choreo.errors import ChoreoError
from choreo.local.discovery import FoundService, Package, no_services, services_in
from choreo.local.disk import explained, trouble_in
from choreo.local.guard import GRACE_SECONDS, Guard
from choreo.local.ready import READY_FILE
from choreo.local.server import EmbeddedServer, free_port
from choreo.local.worker import worker_command
from choreo.service import Service

#: Seconds that a given broker may take to answer.
BROKER_SECONDS = 3.0
#: Seconds that all workers together may take to start.
READY_SECONDS = 60.0
#: Seconds that Flower, or the pages, may take to answer.
FLOWER_SECONDS = PAGES_SECONDS = 30.0
#: What runs beside the workers and is no service, with the path at which it answers when it is ready.
BESIDE = {"flower": "/healthcheck", "pages": "/static/mark.svg"}
#: The number of log lines that an error message shows.
LOG_LINES = 20
#: At INFO a worker logs each run. Mingle and gossip delay the start of a worker by a
#: second and more. They exchange state between the workers of a service, of which there is one here.
WORKER_OPTIONS = ("--loglevel", "INFO", "--without-mingle", "--without-gossip")


class PlatformError(ChoreoError):
    """The platform cannot carry out a call."""


class BrokerUnreachableError(PlatformError):
    """No broker answers at the given URL. The message hides the password."""

    def __init__(self, url: str, reason: object) -> None:
        self.url = maybe_sanitize_url(url)
        # The text of a KeyError has quotes; other errors end with a full stop.
        said = str(reason).strip("'.")
        super().__init__(
            f"The broker at {self.url} cannot be used: {said}. "
            "Start it, or correct --broker / CHOREO_BROKER_URL, or leave both out for an embedded server."
        )


class WorkerDiedError(PlatformError):
    """
    A process of the platform ended unexpectedly. The message ends with the last lines of its log.

    ``trouble`` is the reason why the log may be incomplete, or "".
    """

    def __init__(self, name: str, exit_code: int, lines: Sequence[str], trouble: str = "") -> None:
        self.name = name
        self.exit_code = exit_code
        self.lines = list(lines)
        super().__init__(f"{name} {describe_exit(exit_code)}. {log_end(name, lines, trouble)}")


class NotReadyError(PlatformError):
    """Processes of the platform did not become ready in time. The message ends with the last lines of their logs."""

    def __init__(self, logs: Mapping[str, Sequence[str]], seconds: float, trouble: str = "") -> None:
        self.names = list(logs)
        said = "\n".join(log_end(name, lines, trouble) for name, lines in logs.items())
        super().__init__(f"Not ready after {seconds:g} s: {', '.join(self.names)}.\n{said}")


@dataclass
class _Worker:
    guard: Guard
    ready_file: Path


class Platform:
    """
    The services of a package, each in a worker process of its own, with a broker and a store.

    Processes run between start() and close(). A `with` block calls close(). No process is left after Ctrl-C. After
    `kill -9` of the process that holds the platform, its processes end within `grace` seconds.

    Without `broker_url` the platform starts an embedded server. close() ends it and deletes its data.
    The workers find the broker in CHOREO_BROKER_URL and the store in CHOREO_STORE_URL. So do the modules of the
    package, which open() imports: those that declare handlers, see `choreo.local.discovery.find_services`. From then on
    these services use broker and store of the platform in this process as well, until it opens another platform.
    `environment` is added to the environment of the workers, `worker_options` to the command `celery worker`.
    `grace` is the number of seconds that running handlers have to finish.
    Logs are written to `directory`; without one, to a temporary directory that close() removes.

    Raises `choreo.local.discovery.DiscoveryError` when the package has no services.

        >>> with Platform("handlers") as platform:
        ...     platform.start()
        ...     platform.wait_ready()
    """

    def __init__(
        self,
        package: str,
        *,
        broker_url: str | None = None,
        store_url: str | None = None,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        worker_options: Sequence[str] = (),
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.package = package
        self.worker_options = tuple(worker_options)
        self.server: EmbeddedServer | None = None if broker_url else EmbeddedServer(persistent=True)
        self._grace = grace
        self._broker_url = broker_url
        self._store_url = store_url
        self._extra_environment = dict(environment or {})
        self._keep_directory = directory is not None
        self._directory = directory
        self._package = Package(package)
        if not self._package.modules:
            raise no_services(self._package)
        #: The services, once they are imported.
        self._imported: dict[str, FoundService] | None = None
        self._workers: dict[str, _Worker] = {}
        self._beside: dict[str, Guard] = {}
        self._janitor: Guard | None = None
        self._private: Path | None = None
        self._private_janitor: Guard | None = None
        self._open = False

    @property
    def services(self) -> dict[str, str]:
        """Every service of the package that has handlers, with its module, started or not. Known after open()."""
        return {name: service.module for name, service in self._found.items()}

    @property
    def silent(self) -> dict[str, str]:
        """The services of the package that have no handlers, with their modules. They are neither imported nor run."""
        return self._package.silent

    @property
    def started(self) -> list[str]:
        """The services that were started and not stopped, in the order of their start. Some may have ended."""
        return list(self._workers)

    @property
    def running(self) -> list[str]:
        """The services whose worker process runs. It may not be ready yet."""
        return [name for name, worker in self._workers.items() if worker.guard.poll() is None]

    @property
    def exited(self) -> dict[str, int]:
        """The services whose worker ended unexpectedly, with its exit code, until they are started again."""
        codes = {name: worker.guard.poll() for name, worker in self._workers.items()}
        return {name: code for name, code in codes.items() if code is not None}

    @property
    def broker_url(self) -> str:
        """The URL of the broker, with its password."""
        if self.server is not None:
            return self.server.url
        assert self._broker_url is not None
        return self._broker_url

    @property
    def store_url(self) -> str | None:
        """The URL of the store, with its password. None: choreo's default, the broker."""
        return self._store_url or (self.server.url if self.server is not None else None)

    @property
    def given_store_url(self) -> str | None:
        """The URL of the store, with its password, if it was given."""
        return self._store_url

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that a process needs to join the platform: URLs, PYTHONPATH, and the given ones."""
        urls = {"CHOREO_BROKER_URL": self.broker_url} | ({"CHOREO_STORE_URL": self.store_url} if self.store_url else {})
        return urls | {"PYTHONPATH": self._python_path()} | self._extra_environment

    @property
    def namespaces(self) -> list[str]:
        """The namespaces of the services that were started, sorted; "" for none. Known after open()."""
        with self._worker_environment():
            found = [self._found[name].app.conf.get("choreo_namespace") or "" for name in self.started]
        return sorted(set(found))

    @property
    def _found(self) -> dict[str, FoundService]:
        if self._imported is None:
            raise PlatformError("The platform does not know its services before open().")
        return self._imported

    def open(self) -> None:
        """
        Start the embedded server, import the services, and check that a given broker answers. start() calls this.

        Raises `DiscoveryError` if a service cannot be imported, `BrokerUnreachableError`, `ServerError`, and
        `PlatformError` if the logs cannot be written.
        """
        if self._open:
            return
        try:
            if self.server is not None:
                self.server.start()
            self._import()
            if self.server is None:
                check_broker(self.broker_url, *self._broker_settings())
            self._make_directory()
        except BaseException:
            self.close()
            raise
        self._open = True

    def start(self, *names: str) -> None:
        """
        Start the workers of these services, by default of all, in parallel.

        Returns at once; wait_ready() waits until they are ready. A running worker is left alone. A worker that ended
        is started again, and appends to its log. Raises PlatformError for an unknown service.
        """
        self.open()
        for name in self._chosen(names):
            if name not in self.running:
                self._workers[name] = self._start_worker(self._found[name])

    def stop(self, *names: str) -> None:
        """
        Stop the workers of these services, by default of all, in parallel, and wait until they have ended.

        A worker finishes its running handlers. It is killed if that takes longer than the grace.
        """
        chosen = self._chosen(names) if names else list(self._workers)
        stopping = [self._workers.pop(name).guard for name in chosen if name in self._workers]
        _stop_together(stopping)

    def kill(self, name: str) -> None:
        """Kill the worker of a service and its pool with SIGKILL, as in a crash. start(name) starts it again."""
        self._chosen([name])
        if name in self._workers:
            self._workers.pop(name).guard.kill()

    def signal(self, name: str, number: int) -> None:
        """Send a signal, such as SIGSTOP or SIGCONT, to all processes of a service's worker."""
        self._chosen([name])
        if name in self._workers:
            self._workers[name].guard.send(number)

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """
        Wait until every started worker consumes its queues. The queues are declared and bound then.

        Raises WorkerDiedError as soon as a worker has ended, and NotReadyError after `timeout` seconds.
        """
        give_up_at = time.monotonic() + timeout
        while waiting := [name for name in self._workers if not self.is_ready(name)]:
            for name, code in self.exited.items():
                raise WorkerDiedError(name, code, self.last_lines(name), self.trouble())
            if time.monotonic() > give_up_at:
                raise NotReadyError({name: self.last_lines(name) for name in waiting}, timeout, self.trouble())
            time.sleep(0.02)

    def is_ready(self, name: str) -> bool:
        """Return True if the worker of the service runs and has begun to consume."""
        worker = self._workers.get(name)
        return worker is not None and worker.ready_file.exists() and worker.guard.poll() is None

    def pid(self, name: str) -> int:
        """Return the process id of a ready worker's main process. Raises PlatformError if it is not ready."""
        return self._ready_facts(name)[0]

    def ready_at(self, name: str) -> int:
        """Return the length of the log, in bytes, at the moment when the worker became ready."""
        return self._ready_facts(name)[1]

    def start_flower(self, timeout: float = FLOWER_SECONDS) -> str:
        """
        Start Flower on a free port of 127.0.0.1, wait until it answers, and return its URL.

        It has no password: every user of this machine can open it. It refuses requests for foreign hosts: see
        `choreo.local.flower`.
        Its API answers only with FLOWER_UNAUTHENTICATED_API=true in `environment`.
        Raises PlatformError if Flower is not installed, WorkerDiedError if it ends, and NotReadyError after `timeout`
        seconds.
        """
        if importlib.util.find_spec("flower") is None:
            raise PlatformError("Flower is not installed here: pip install flower.")
        self.open()
        port = free_port()
        # Flower is started with the app of one service, and shows the workers of all.
        options = ["flower", "--address=127.0.0.1", f"--port={port}"]
        return self._start_beside("flower", ["choreo.local.flower", "-A", self._target, *options], port, timeout)

    def start_pages(self, timeout: float = PAGES_SECONDS) -> str:
        """
        Start `choreo web --allow-changes` on a free port of 127.0.0.1, wait until it answers, and return its URL.

        It has no password: every user of this machine can open it. Raises PlatformError if Tornado is not installed,
        WorkerDiedError if it ends, and NotReadyError after `timeout` seconds.
        """
        if importlib.util.find_spec("tornado") is None:
            raise PlatformError("The pages need Tornado: pip install 'celery-choreo[web]'.")
        self.open()
        port = free_port()
        options = ["web", f"--port={port}", "--allow-changes"]
        return self._start_beside("pages", ["choreo", "-A", self._target, *options], port, timeout)

    @property
    def _target(self) -> str:
        """A service, by whose configuration the platform is found."""
        return self._found[next(iter(self.started), next(iter(self._found)))].target

    def _start_beside(self, name: str, module: list[str], port: int, timeout: float) -> str:
        """Run a module that serves pages, wait until it answers, and return its URL."""
        guard = self._beside[name] = self._run(name, [sys.executable, "-m", *module], {})
        give_up_at = time.monotonic() + timeout
        while not _is_healthy(f"http://127.0.0.1:{port}{BESIDE[name]}"):
            if (code := guard.poll()) is not None:
                raise WorkerDiedError(name, code, self.last_lines(name), self.trouble())
            if time.monotonic() > give_up_at:
                raise NotReadyError({name: self.last_lines(name)}, timeout, self.trouble())
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}"

    def log(self, name: str) -> Path:
        """Return the log file of a service, of "flower" or "pages". Restarts append to it. It may not exist yet."""
        if name not in BESIDE:
            self._chosen([name])
        return self._logs() / f"{name}.log"

    def last_lines(self, name: str, count: int = LOG_LINES) -> list[str]:
        """Return the last `count` lines of a log."""
        path = self.log(name)
        return path.read_text(errors="replace").splitlines()[-count:] if path.exists() else []

    def write_private(self, name: str, lines: Sequence[str]) -> Path:
        """Write a file that only this user can read. close() removes it."""
        if self._private is None:
            # Not in the directory of the logs: that one may be kept.
            with explained("make a temporary directory", PlatformError):
                self._private = Path(tempfile.mkdtemp(prefix="choreo-private-"))
            self._private_janitor = Guard(rmtree=self._private)
        path = self._private / name
        with explained(f"write {path}", PlatformError):
            path.write_text("".join(f"{line}\n" for line in lines))
            path.chmod(0o600)
        return path

    def trouble(self) -> str:
        """Return the reason why the logs are incomplete, such as a full disk; "" if they can be written."""
        return trouble_in(self._logs())

    def close(self, *, force: bool = False) -> None:
        """
        Stop the workers, then Flower and the pages, then the embedded server. A second call does nothing.

        With `force` the workers are killed, together with their running handlers.
        """
        if force:
            for worker in self._workers.values():
                worker.guard.send(9)
        self.stop()
        _stop_together(self._beside.values())
        if self.server is not None:
            self.server.stop()
        for janitor in (self._janitor, self._private_janitor):
            if janitor is not None:
                janitor.stop()
        self._beside = {}
        self._janitor = self._private_janitor = self._private = None
        self._directory = self._directory if self._keep_directory else None
        self._open = False

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _chosen(self, names: Iterable[str]) -> list[str]:
        unknown = [name for name in names if name not in self._found]
        for name in unknown:
            if name in self.silent:
                raise PlatformError(
                    f"{name} ({self.silent[name]}) has no handler, so there is nothing to run. It can publish only."
                )
        if unknown:
            raise PlatformError(
                f"{self.package} has no service {' and no service '.join(map(repr, unknown))}; "
                f"it has {', '.join(self._found)}."
            )
        return list(dict.fromkeys(names)) or list(self._found)

    def _ready_facts(self, name: str) -> list[int]:
        worker = self._workers.get(name)
        if worker is None or not worker.ready_file.exists():
            raise PlatformError(f"{name} is not ready.")
        return [int(number) for number in worker.ready_file.read_text().split()]

    def _start_worker(self, service: FoundService) -> _Worker:
        ready_file = self._logs() / f"{service.name}.ready"
        ready_file.unlink(missing_ok=True)
        options = ["--include", "choreo.local.ready", *WORKER_OPTIONS, *self.worker_options]
        return _Worker(self._run_worker(service, options, {READY_FILE: str(ready_file)}), ready_file)

    def _run_worker(self, service: FoundService, options: Sequence[str], environment: Mapping[str, str]) -> Guard:
        return self._run(service.name, worker_command(service.target, *options, quiet=True), environment)

    def _run(self, name: str, command: list[str], environment: Mapping[str, str]) -> Guard:
        with explained(f"start {name} and write its log", PlatformError):
            return Guard(
                command,
                grace=self._grace,
                log=self.log(name),
                env=self._environment_with(environment),
                before=[*(self.server.guards if self.server else ()), *([self._janitor] if self._janitor else ())],
            )

    def _environment_with(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process of the platform, with these variables."""
        return {**os.environ, **self._surroundings(), **self.environment, **environment}

    def _surroundings(self) -> dict[str, str]:
        surroundings = self._celery_urls() | {"PYTHONUNBUFFERED": "1"}
        if not self._keep_directory:
            # A killed pool leaves temporary files. Here they are removed with the directory.
            temporary = self._logs() / "tmp"
            temporary.mkdir(exist_ok=True)
            surroundings["TMPDIR"] = str(temporary)
        return surroundings

    def _celery_urls(self) -> dict[str, str]:
        # These variables of Celery go before any configuration, so they must name the same broker.
        return {f"CELERY_BROKER{kind}_URL": self.broker_url for kind in ("", "_READ", "_WRITE")}

    def _broker_settings(self) -> tuple[Any, Mapping[str, Any]]:
        """
        The services' `broker_use_ssl` and `broker_transport_options`: is it TLS, where is Sentinel's master?

        A configuration may read the URLs from the environment, so it is read in the environment that a worker gets.
        """
        with self._worker_environment():
            conf = next(iter(self._found.values())).app.conf
            return conf.broker_use_ssl, conf.broker_transport_options

    def _import(self) -> None:
        """Import the services, as a worker does: what a module publishes then goes to the platform's own broker."""
        if self._imported is None:
            with self._worker_environment():
                self._imported = services_in(self._package)
        # This process may have imported them before, for another platform.
        for service in self._imported.values():
            connect_to(service.app, self.broker_url, self.store_url)

    @contextmanager
    def _worker_environment(self) -> Iterator[None]:
        """Context manager: this process has the environment of a worker, which a configuration may read."""
        workers = self._celery_urls() | self.environment
        before = {name: os.environ[name] for name in workers if name in os.environ}
        os.environ.update(workers)
        try:
            yield
        finally:
            for name in workers.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)

    def _make_directory(self) -> None:
        if self._directory is None:
            with explained("make a temporary directory for the logs", PlatformError):
                self._directory = Path(tempfile.mkdtemp(prefix="choreo-logs-"))
            self._janitor = Guard(rmtree=self._directory)
        with explained(f"make the directory of the logs, {self._directory}", PlatformError):
            self._directory.mkdir(parents=True, exist_ok=True)
        if trouble := self.trouble():
            raise PlatformError(trouble)

    def _logs(self) -> Path:
        if self._directory is None:
            raise PlatformError("The platform has no logs before start() and after close().")
        return self._directory.absolute()

    def _python_path(self) -> str:
        # The workers must find the package in the place where this process found it.
        return os.pathsep.join(filter(None, [str(self._package.root), os.environ.get("PYTHONPATH")]))


def connect_to(app: Any, broker_url: str, store_url: str | None) -> None:
    """Let a service use this broker and store in this process. ``store_url``: None leaves its own setting."""
    app.conf.broker_url = app.conf.broker_read_url = app.conf.broker_write_url = broker_url
    if store_url is not None:
        app.conf.choreo_store_url = store_url
    # Connections that were made before are to another broker.
    app._pool = None
    if "amqp" in vars(app):
        app.amqp._producer_pool = None
    if isinstance(app, Service):
        app.runtime.reconnect()


def check_broker(url: str, use_ssl: Any = None, options: Mapping[str, Any] | None = None) -> None:
    """
    Connect to a broker once, as a service with these settings does: `broker_use_ssl`, `broker_transport_options`.

    Raises BrokerUnreachableError when that fails, or takes longer than BROKER_SECONDS.
    """
    # The connect timeout does not cover a Redis that accepts the connection and then does not answer.
    patience = {"socket_timeout": BROKER_SECONDS}
    try:
        with BrokerConnection(
            url, ssl=use_ssl, connect_timeout=BROKER_SECONDS, transport_options={**(options or {}), **patience}
        ) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
    except Exception as error:
        raise BrokerUnreachableError(url, error) from error


def describe_exit(code: int) -> str:
    """Return in words how a guarded process ended: "was ended by signal 9", "ended with exit code 1"."""
    # The guard reports signal n as 128 + n, like a shell. A code below 0 means that the guard itself was killed.
    number = code - 128 if code > 128 else -code
    return f"was ended by signal {number}" if number > 0 else f"ended with exit code {code}"


def _stop_together(guards: Iterable[Guard]) -> None:
    guards = list(guards)
    for guard in guards:
        guard.end()
    for guard in guards:
        guard.stop()


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def log_end(name: str, lines: Sequence[str], trouble: str = "") -> str:
    """Return the last lines of a log, for a message. ``trouble`` is the reason why it may be incomplete, or ""."""
    said = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
    return f"The end of {name}'s log:\n{said}" + (f"\n{trouble}" if trouble else "")
