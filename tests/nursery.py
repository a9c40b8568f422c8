"""
Workers and commands that are forked from a process which has imported what they import.

A worker needs a second of a processor until it is ready, three quarters of it for imports. The tests start hundreds of
workers that live for seconds. So one process, the nursery, imports everything once for all tests of this process, and
each worker is a fork of it: a process with a session, an environment and standard files of its own, which runs
`choreo.local.worker` as every worker does, and imports the module of its service. The same goes for `choreo`.

The pool gevent replaces parts of the standard library before anything else is imported, and Sentry parts of Celery. So
their workers start from nothing. So do those of a `choreo.local.Platform`, but not those of a `tests.platforms` one.
"""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from tempfile import TemporaryFile
from typing import Any, Protocol

from tests.ending import with_this_process
from tests.waiting import DEADLINE

ROOT = Path(__file__).parents[1]
#: Bytes of a number that the nursery tells.
SIZE = 4
#: What the nursery imports; each of these imports others.
MODULES = (
    "celery.app.control",
    "celery.app.log",
    "celery.apps.worker",
    "celery.backends.base",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "choreo.local.worker",
    "choreo.service",
)
#: The packages of which it imports every module.
PACKAGES = (
    "choreo.broker",
    "choreo.check",
    "choreo.cli",
    "choreo.contracts",
    "choreo.declare",
    "choreo.delivery",
    "choreo.fast",
    "choreo.observe",
    "choreo.operate",
    "choreo.schemas",
    "choreo.store",
    "choreo.worker",
)


class Process(Protocol):
    """What the tests use of `subprocess.Popen`."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def start_worker(
    target: str,
    *options: str,
    log: Path,
    environment: Mapping[str, str],
    quiet: bool = False,
    fresh: bool = False,
) -> Process:
    """
    Run a worker of the app that `celery -A TARGET` finds, in a session of its own and with this environment.

    It ends with this process. Its output is appended to ``log``; ``quiet`` hides its banner. ``fresh``: it starts from
    nothing.
    """
    with log.open("ab") as output:
        if not fresh and "gevent" not in options:
            arguments = [*(["--quiet"] if quiet else []), target, *options]
            return NURSERY.fork("worker", arguments, output.fileno(), environment, ROOT)
        # Not above, because pytest-cov begins to measure later than this file is imported.
        from choreo.local.worker import worker_command

        return subprocess.Popen(
            worker_command(target, *options, quiet=quiet),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=with_this_process,
            env=environment,
        )


def run_choreo(
    *arguments: str, environment: Mapping[str, str], directory: Path = ROOT, timeout: float = DEADLINE
) -> tuple[int, str]:
    """
    Run the command `choreo` in this directory. Returns its exit code, and what it printed.

    Raises `subprocess.TimeoutExpired` after ``timeout`` seconds, and kills it.
    """
    with TemporaryFile() as output:
        command = NURSERY.fork("choreo", arguments, output.fileno(), environment, directory)
        try:
            code = command.wait(timeout)
        finally:
            command.kill()
        output.seek(0)
        return code, output.read().decode()


@dataclass
class Keeper:
    """Keeps the process of a worker with the words of `Guard`: what it starts ends with it."""

    process: Process
    grace: float
    _kill_at: float = 0.0

    def poll(self) -> int | None:
        """The exit code, or None while it runs: 128 + n if signal n ended it."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def send(self, number: int) -> None:
        """Send a signal to the process and its pool. Does nothing if none of them is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        """Begin to stop it."""
        self._kill_at = self._kill_at or time.monotonic() + self.grace
        self.process.terminate()

    def stop(self) -> int:
        """SIGTERM, and SIGKILL to all that are left when the grace is over. Returns the exit code."""
        self.end()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, self._kill_at - time.monotonic()))
        return self.kill()

    def kill(self) -> int:
        self.send(signal.SIGKILL)
        self.process.wait(DEADLINE)
        return self.poll() or 0


class Forked:
    """A process of the nursery, which tells its process id, and how it ended, through a pipe."""

    def __init__(self, told: int) -> None:
        self._told = os.fdopen(told, "rb", 0)
        #: One thread may kill a worker while another one waits for its end.
        self._reading = threading.Lock()
        self.returncode: int | None = None
        self.pid = self._number()

    def poll(self) -> int | None:
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired([f"worker {self.pid}"], timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        # The nursery tells of its end a moment after it.
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], seconds)[0]:
            with self._reading:
                if self.returncode is None:
                    self.returncode = self._number()
        return self.returncode

    def __del__(self) -> None:
        self._told.close()

    def _number(self) -> int:
        told = self._told.read(SIZE)
        assert told, "the nursery has ended"
        return int.from_bytes(told, signed=True)


class Nursery:
    """Starts the nursery when the first worker is wanted."""

    def __init__(self) -> None:
        self._requests: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def fork(
        self, program: str, arguments: Sequence[str], log: int, environment: Mapping[str, str], directory: Path
    ) -> Forked:
        """Run "worker" or "choreo"."""
        told, tells = os.pipe()
        try:
            request = json.dumps([program, list(arguments), dict(environment), str(directory)]).encode()
            socket.send_fds(self._opened(), [request], [log, tells])
        finally:
            os.close(tells)
        return Forked(told)

    def close(self) -> None:
        """End it; the workers that still run end with it."""
        if self._requests is not None and self._process is not None:
            self._requests.close()
            self._process.wait()
        self._requests = self._process = None

    def _opened(self) -> socket.socket:
        if self._requests is None:
            # Each request is one packet.
            self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.nursery", str(theirs.fileno())],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    preexec_fn=with_this_process,
                )
        return self._requests


#: That of this process. A fixture of the session closes it.
NURSERY = Nursery()


class _Nurse:
    """The process itself."""

    #: Bytes of the longest request.
    LONGEST = 1 << 20

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        #: The process id of each worker -> where its end is told.
        self._workers: dict[int, int] = {}
        self._woken, wakes = os.pipe()
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(wakes)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The tests end it; a Ctrl-C is for them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def request(self) -> Any | None:
        """Tell of workers that have ended until one is wanted. None: no more are."""
        while True:
            if self._woken in select.select([self._requests, self._woken], [], [])[0]:
                os.read(self._woken, 512)
                self._reap()
            else:
                text, files, *_ = socket.recv_fds(self._requests, self.LONGEST, 2)
                return (*json.loads(text), *files) if text else None

    def _reap(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            tells = self._workers.pop(pid)
            _tell(tells, os.waitstatus_to_exitcode(status))
            os.close(tells)

    def fork(self, log: int, tells: int) -> bool:
        """True in the worker."""
        if not (pid := os.fork()):
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()
            with_this_process()
            os.dup2(log, 1)
            os.dup2(log, 2)
            self._requests.detach()
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            return True
        _tell(tells, pid)
        self._workers[pid] = tells
        os.close(log)
        return False


def _tell(pipe: int, number: int) -> None:
    # Nobody listens if the test has ended.
    with suppress(BrokenPipeError):
        os.write(pipe, number.to_bytes(SIZE, signed=True))


def main(requests: int) -> None:
    for name in (*MODULES, *_modules_of_packages()):
        import_module(name)
    _prepare_children()
    # What is there already is neither looked at nor copied in the workers.
    gc.collect()
    gc.freeze()
    nurse = _Nurse(socket.socket(fileno=requests))
    while request := nurse.request():
        program, arguments, environment, directory, log, tells = request
        if nurse.fork(log, tells):
            _become(program, arguments, environment, directory)
            return


def _prepare_children() -> None:
    """Let cffi make its parser here: each child of a prefork pool would make one, to learn the death of its parent."""
    with suppress(ImportError):
        import_module("cffi").FFI().cdef("int prctl (int __option, ...);")


def _modules_of_packages() -> Iterator[str]:
    for package in map(import_module, PACKAGES):
        yield from (found.name for found in walk_packages(package.__path__, f"{package.__name__}."))


def _become(program: str, arguments: list[str], environment: dict[str, str], directory: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # It reads the environment when it is imported.
    sys.modules.pop("celeryconfig", None)
    os.chdir(directory)
    # Python reads these variables when it starts, and begins with the directory in which it runs a module.
    sys.path[:1] = [directory, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if environment.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    if program == "worker":
        sys.argv[1:] = arguments
        sys.modules["choreo.local.worker"].main(arguments)
    else:
        sys.argv[:] = ["choreo", *arguments]
        sys.modules["choreo.cli"].main()


if __name__ == "__main__":
    main(int(sys.argv[1]))
