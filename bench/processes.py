"""Starts and stops the measured processes, and reads their CPU time. CPU time needs Linux's /proc."""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from bench.setting import ROOT, VARIABLE, Setting

_PR_SET_PDEATHSIG = 1
#: Seconds after which a silent publisher has failed.
ANSWER_SECONDS = 90.0


class SideError(Exception):
    """A side failed. Its row in the table shows the error."""


def _die_with_parent() -> None:
    # `kill -9` of the benchmark must leave no process behind.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start(command: Sequence[str], setting: Setting, log: str, **more: Any) -> subprocess.Popen[str]:
    """Start a process in a process group of its own. Its output goes to ``log``."""
    environment = {
        **os.environ,
        VARIABLE: str(Path(setting.directory, "setting.json")),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "PYTHONDONTWRITEBYTECODE": "",
        **more.pop("env", {}),
    }
    with Path(setting.directory, log).open("ab") as file:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=setting.directory,
            stderr=file,
            text=True,
            start_new_session=True,
            preexec_fn=_die_with_parent,
            **({"stdout": file, "stdin": subprocess.DEVNULL} | more),
        )


def stop(processes: Sequence[subprocess.Popen[str]], grace: float = 6.0) -> None:
    """Stop the processes: SIGTERM, then, after ``grace`` seconds together, SIGKILL to each process group."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + grace
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.05, deadline - time.monotonic()))
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the process and its children with SIGKILL, and wait for its end."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def session_cpu(process: subprocess.Popen[str]) -> float:
    """Return the CPU seconds of a process and its living children; 0 without /proc."""
    ticks = 0
    with contextlib.suppress(OSError):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(entry)) and int(fields[3]) == process.pid:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def process_cpu(pid: int) -> float | None:
    """Return the CPU seconds of one process; None if it does not exist."""
    fields = _stat(Path("/proc", str(pid)))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else None


def find_process(name: str) -> int | None:
    """Return the id of the oldest process with this name; None if there is none."""
    found: list[tuple[int, int]] = []
    with contextlib.suppress(OSError):
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    entry.name.isdigit()
                    and Path(entry, "comm").read_text().strip() == name
                    and (fields := _stat(entry))
                ):
                    found.append((int(fields[19]), int(entry.name)))
    return min(found)[1] if found else None


def _stat(process: Path) -> list[str] | None:
    try:
        return Path(process, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


class PublisherProcess:
    """The publisher process of a session. It takes orders, and answers, in JSON lines."""

    def __init__(self, python: str, setting: Setting) -> None:
        self._process = start(
            [python, "-m", "bench.publisher"],
            setting,
            "publisher.log",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._log = Path(setting.directory, "publisher.log")
        self._read()

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Send an order and return the answer. Raises `SideError`, with the end of the log, when there is none."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # There is one line per order, so select() need not look into the buffer of the reader.
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise SideError(f"the publisher {'ended' if ready else 'does not answer'}: {tail(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Stop the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        stop([self._process], grace=2.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tail(path: Path, length: int = 400) -> str:
    """Return the last ``length`` characters of a log, on one line."""
    return " ".join(path.read_text(errors="replace").split())[-length:] if path.exists() else "(no log)"
