"""Starting and stopping what is measured, and what it costs in CPU time. Full figures need Linux's /proc."""

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
#: A publisher that does not answer for this long has failed.
ANSWER_SECONDS = 90.0


class SideError(Exception):
    """A side does not work here; its row says so."""


def _die_with_parent() -> None:
    # `kill -9` of the driver must leave nothing behind.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start(command: Sequence[str], setting: Setting, log: str, **more: Any) -> subprocess.Popen[str]:
    """Start a program of the session, in a session of its own."""
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
    """End them: SIGTERM, some patience, then SIGKILL for whatever is left of each one's group."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + grace
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.05, deadline - time.monotonic()))
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the process and its children, at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def session_cpu(process: subprocess.Popen[str]) -> float:
    """Seconds of CPU time that a process and its living children have used; 0 where that cannot be known."""
    ticks = 0
    with contextlib.suppress(OSError):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(entry)) and int(fields[3]) == process.pid:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def process_cpu(pid: int) -> float | None:
    """Seconds of CPU time of one process."""
    fields = _stat(Path("/proc", str(pid)))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else None


def find_process(name: str) -> int | None:
    """The oldest process of this name."""
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
    """The publisher of a session, asked by JSON lines."""

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
        """Give an order and return the answer. Raises `SideError` with the log's end when there is none."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # One line per order, so nothing of an answer is left in the reader's buffer.
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise SideError(f"the publisher {'ended' if ready else 'does not answer'}: {tail(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        stop([self._process], grace=2.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tail(path: Path, length: int = 400) -> str:
    """The end of a log, on one line."""
    return " ".join(path.read_text(errors="replace").split())[-length:] if path.exists() else "(no log)"
