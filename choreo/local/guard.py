"""
Ends a process when its owner ends.

A program that starts servers and workers cannot always stop them: `kill -9` gives it no time, and a Ctrl-C in the
terminal reaches all processes at once, also the server that the workers still need. Therefore each process that choreo
starts runs under a guard, which is this file run as a script:

    python -I -S guard.py [--rmtree DIR] [--grace SECONDS] [--] [CMD...]

The guard's stdin is a pipe that only the owner holds. When the owner closes the pipe or dies, the guard reads the end
of the file and stops CMD: it sends SIGTERM, waits `--grace` seconds, and sends SIGKILL to the whole process group. Then
it removes DIR and exits with the exit code of CMD (128 + n if signal n ended it). Without CMD it waits for the owner,
and removes DIR.

Each byte on the pipe is the number of a signal. 15 (SIGTERM) stops CMD as above; any other signal is sent to the whole
group of CMD. A SIGTERM or SIGHUP to the guard stops CMD, too. The guard ignores SIGINT: the owner decides about a
Ctrl-C.

Promised: when the guard has ended, no process that CMD started in its process group is left. On Linux that includes
daemons that left the group, and CMD also dies when the guard is killed with SIGKILL.
Not promised: that DIR is removed after a SIGKILL of the guard; on systems other than Linux, that CMD ends then.

The guard runs without site-packages (`-S`), starts in about 50 ms, and may import the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Seconds that CMD may take to end after SIGTERM. Then it is killed.
GRACE_SECONDS = 10.0
#: Seconds for which the guard waits for killed processes. Only a process stuck in the kernel takes longer.
SWEEP_SECONDS = 5.0

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Guard:
    """
    A command that ends when this process ends, also after `kill -9`.

    The command runs in a session of its own: a Ctrl-C or a closed terminal does not reach it.
    A guard without a command only removes the directory `rmtree`.
    `before` are guards that stay alive until this one has ended if the owner dies. The broker outlives its workers in
    this way, even after `kill -9` of the owner. An explicit stop() of one of them does not wait.
    `grace` is in seconds. The output of the command is appended to `log`.

    A fork of the owner that does not exec (multiprocessing's "fork") holds the pipe open, so it counts as the owner.
    """

    def __init__(
        self,
        command: Sequence[str] = (),
        *,
        rmtree: os.PathLike[str] | None = None,
        grace: float = GRACE_SECONDS,
        log: os.PathLike[str] | None = None,
        cwd: os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        before: Sequence[Guard] = (),
    ) -> None:
        self.command = list(command)
        self.grace = grace
        options = ["--grace", str(grace), *(["--rmtree", os.fspath(rmtree)] if rmtree else []), "--"]
        # Appending keeps the log of an earlier run of the same service.
        with Path(log or os.devnull).open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).absolute()), *options, *self.command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                bufsize=0,
                cwd=cwd,
                env=env,
                start_new_session=True,
                pass_fds=[pipe for guard in before if (pipe := guard._pipe()) is not None],
            )

    @property
    def pid(self) -> int:
        """The process id of the guard. The command has another one."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the command's exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """
        Wait until the command and everything it started have ended, and return the exit code of the command.

        Raises subprocess.TimeoutExpired after `timeout` seconds.
        """
        return self._process.wait(timeout)

    def send(self, number: int) -> None:
        """Send a signal to the whole process group of the command. Does nothing if it has ended."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(BrokenPipeError):
                pipe.write(bytes([number]))

    def end(self) -> None:
        """Begin to stop the command, without waiting for its end."""
        # The byte stops the guard also while another guard holds the same pipe open; see `before`.
        self.send(signal.SIGTERM)
        if self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> int:
        """Stop the command, kill it when `grace` is over, and return its exit code. None of its processes is left."""
        self.end()
        try:
            return self.wait(self.grace + 2 * SWEEP_SECONDS)
        except subprocess.TimeoutExpired:
            # The guard does not run (SIGSTOP). On Linux the command dies with it.
            self._process.kill()
            return self.wait()

    def kill(self) -> int:
        """Kill the command and its process group with SIGKILL, as in a crash. Returns its exit code."""
        self.send(signal.SIGKILL)
        return self.stop()

    def _pipe(self) -> int | None:
        pipe = self._process.stdin
        return None if pipe is None or pipe.closed else pipe.fileno()


class Watch:
    """The main loop of the guard's process. It has one child, one thread, and one place where it waits."""

    def __init__(self, command: list[str], grace: float) -> None:
        self._grace = grace
        self._kill_at: float | None = None
        self._stopping = False
        self._exit_code: int | None = None
        # Python writes the number of each signal that has a handler into this pipe. So signals are read like the
        # bytes of the owner, and no code runs inside a signal handler.
        self._signals, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
            # A handler, not SIG_IGN: the child would inherit SIG_IGN, and it may handle Ctrl-C.
            signal.signal(number, lambda *_: None)
        self._inputs = [0, self._signals]
        self._child = _spawn(command) if command else None

    def run(self) -> int:
        """Return the exit code of the child, once the child and all processes that it left behind have ended."""
        while not self._is_over():
            self._wait_for_input()
            self._reap()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_at = None
                self._send(signal.SIGKILL)
        self._sweep()
        code = self._exit_code or 0
        return code if code >= 0 else 128 - code

    def _is_over(self) -> bool:
        return self._stopping if self._child is None else self._exit_code is not None

    def _wait_for_input(self) -> None:
        timeout = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
        ready, _, _ = select.select(self._inputs, [], [], timeout)
        if self._signals in ready and set(os.read(self._signals, 512)) & {signal.SIGTERM, signal.SIGHUP}:
            self._stop()
        if 0 in ready:
            self._obey(_read(0))

    def _obey(self, numbers: bytes) -> None:
        if not numbers:
            # The owner closed the pipe or is dead.
            self._inputs.remove(0)
            self._stop()
        for number in numbers:
            if number == signal.SIGTERM:
                self._stop()
            else:
                self._send(number)

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        if self._child is not None and self._exit_code is None:
            self._kill_at = time.monotonic() + self._grace
            # To the child only, not to its group. A SIGTERM to the processes of a prefork pool would end their tasks,
            # while the shutdown of the worker waits for these tasks.
            os.kill(self._child.pid, signal.SIGTERM)

    def _send(self, number: int) -> None:
        if self._child is not None:
            # macOS raises PermissionError if the group holds only zombies.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)

    def _reap(self) -> bool:
        """Collect ended children. True if there are living ones."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if self._child is not None and pid == self._child.pid:
                self._exit_code = self._child.returncode = os.waitstatus_to_exitcode(status)

    def _sweep(self) -> None:
        """Kill and collect the processes that the child left behind, so that not even a zombie stays."""
        give_up_at = time.monotonic() + SWEEP_SECONDS
        self._send(signal.SIGKILL)
        while self._reap() and time.monotonic() < give_up_at:
            for pid in _adopted():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    prctl = _prctl()
    guard = os.getpid()

    def die_with_the_guard() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != guard:
            os._exit(1)

    # Orphaned descendants become children of the guard, which can then find and collect them.
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_the_guard)


def _prctl() -> Callable[[int, int], object]:
    """Return Linux's prctl, or a function that does nothing where there is none."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes

            function = ctypes.CDLL(None).prctl
            return lambda option, value: function(option, ctypes.c_ulong(value), 0, 0, 0)
    return lambda _option, _value: None


def _adopted() -> list[int]:
    """Return the process ids of the guard's children. Empty on systems other than Linux."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 512)
    except OSError:
        # After a hangup, a terminal raises an error where a pipe returns the end of the file.
        return b""


def main(arguments: list[str]) -> int:
    """Run the guard, and return its exit code. See the top of this file."""
    rmtree, grace = None, GRACE_SECONDS
    while arguments and arguments[0].startswith("--"):
        option = arguments.pop(0)
        if option == "--":
            break
        if option == "--rmtree":
            rmtree = arguments.pop(0)
        elif option == "--grace":
            grace = float(arguments.pop(0))
        else:
            print(f"guard: {option} is not an option; there are --rmtree DIR and --grace SECONDS", file=sys.stderr)
            return 2
    try:
        return Watch(arguments, grace).run()
    except OSError as error:
        print(f"guard: {arguments} did not start: {error}", file=sys.stderr)
        return 127
    finally:
        if rmtree is not None:
            shutil.rmtree(rmtree, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
