"""A guard ends what it guards, whatever happens to the owner."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from choreo.local.guard import Guard
from tests.waiting import DEADLINE, eventually

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")

#: Writes its process id into the file that it is given, and then does what follows.
HELLO = "import os, signal, subprocess, sys, time; open(sys.argv[1], 'w').write(f'{os.getpid()}\\n'); "
# In short sleeps: a signal that comes just before a sleep is handled after it.
FOR_EVER = "[time.sleep(0.1) for _ in range(10_000)]"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); open(sys.argv[1], 'a').write('ready\\n'); " + FOR_EVER
PARENT = (
    "child = subprocess.Popen(['sleep', '1000'], start_new_session={}); "
    "open(sys.argv[1], 'a').write(f'{{child.pid}}\\n'); "
)


def python(source: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", HELLO + source, *map(str, arguments)]


def lines(path: Path, count: int) -> list[str]:
    """The lines of a file, as soon as there are so many."""

    def complete() -> list[str]:
        found = path.read_text().splitlines() if path.exists() else []
        return found if len(found) >= count else []

    return eventually(complete, reason=f"{count} lines in {path.name}")


def gone(pid: int | str) -> bool:
    """True if the process does not run any more; whether its parent has collected it is another question."""
    try:
        return bool(psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def hello(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "hello"
    # A test that fails must not leave its processes to the next one.
    for line in (tmp_path / "hello").read_text().splitlines() if (tmp_path / "hello").exists() else []:
        if line.isdigit() and not gone(line):
            os.kill(int(line), signal.SIGKILL)


def test_the_exit_code_is_the_commands(hello: Path) -> None:
    assert Guard(python("sys.exit(3)", hello)).wait(DEADLINE) == 3
    assert Guard(python("os.kill(os.getpid(), signal.SIGKILL)", hello)).wait(DEADLINE) == 128 + signal.SIGKILL


def test_a_command_that_does_not_exist_says_so(tmp_path: Path) -> None:
    guard = Guard(["/no/such/program"], log=tmp_path / "log")

    assert guard.wait(DEADLINE) == 127
    assert "/no/such/program" in (tmp_path / "log").read_text()


def test_stop_asks_the_command_to_end(hello: Path) -> None:
    guard = Guard(
        python(
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print(file=open(sys.argv[1], 'a')); " + FOR_EVER,
            hello,
        )
    )
    lines(hello, 2)

    assert guard.poll() is None
    assert guard.stop() == 7


def test_a_command_that_will_not_end_is_killed_when_its_grace_is_over(hello: Path) -> None:
    guard = Guard(python(STUBBORN, hello), grace=0.3)
    pid, _ = lines(hello, 2)

    began_at = time.monotonic()
    code = guard.stop()

    assert code == 128 + signal.SIGKILL
    assert 0.3 <= time.monotonic() - began_at < DEADLINE
    assert gone(pid)


def test_what_the_command_leaves_behind_in_its_group_is_killed(hello: Path) -> None:
    guard = Guard(python(PARENT.format(False), hello))

    assert guard.wait(DEADLINE) == 0
    assert gone(lines(hello, 2)[1])


@on_linux
def test_a_daemon_that_left_the_group_is_killed_as_well(hello: Path) -> None:
    guard = Guard(python(PARENT.format(True), hello))

    assert guard.wait(DEADLINE) == 0
    assert gone(lines(hello, 2)[1])


def test_kill_takes_the_whole_group_at_once(hello: Path) -> None:
    guard = Guard(python(PARENT.format(False) + STUBBORN, hello))
    pids = lines(hello, 3)[:2]

    assert guard.kill() == 128 + signal.SIGKILL
    assert all(map(gone, pids))


#: What a guard is where the kernel does not help: no prctl, and no list of children.
ELSEWHERE = """
import sys
from choreo.local import guard

guard._prctl = lambda: lambda option, value: None
guard._adopted = lambda: []
sys.exit(guard.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("then", ["", STUBBORN], ids=["ends", "is killed"])
def test_the_group_is_killed_without_the_help_of_linux_as_well(hello: Path, then: str) -> None:
    guard = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, *python(PARENT.format(False) + then, hello)], stdin=subprocess.PIPE
    )
    pids = lines(hello, 3 if then else 2)[:2]

    guard.communicate(bytes([signal.SIGKILL]) if then else None, timeout=DEADLINE)

    eventually(lambda: all(map(gone, pids)))


def test_sigterm_to_the_guard_stops_the_command_and_removes_the_directory(hello: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    guard = Guard(python(FOR_EVER, hello), rmtree=tmp_path / "data")
    lines(hello, 1)

    os.kill(guard.pid, signal.SIGTERM)

    assert guard.wait(DEADLINE) == 128 + signal.SIGTERM
    assert not (tmp_path / "data").exists()


def test_ctrl_c_is_left_to_the_owner_and_not_forbidden_to_the_command(hello: Path) -> None:
    guard = Guard(python(FOR_EVER, hello))
    (pid,) = lines(hello, 1)

    os.kill(guard.pid, signal.SIGINT)
    os.kill(int(pid), 0)
    assert guard.poll() is None

    os.kill(int(pid), signal.SIGINT)
    assert guard.wait(DEADLINE) == 128 + signal.SIGINT


@on_linux
def test_the_command_dies_with_a_guard_that_is_killed(hello: Path) -> None:
    guard = Guard(python(STUBBORN, hello))
    pid, _ = lines(hello, 2)

    os.kill(guard.pid, signal.SIGKILL)

    eventually(lambda: gone(pid))
    assert guard.wait(DEADLINE) == -signal.SIGKILL


def test_a_guard_without_a_command_removes_its_directory(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    guard = Guard(rmtree=tmp_path / "data")
    assert guard.poll() is None

    assert guard.stop() == 0
    assert not (tmp_path / "data").exists()


OWNER = """
import sys, time
from pathlib import Path
from choreo.local.guard import Guard

data = Path(sys.argv[1])
said = "import signal, sys, time; "
said += "say = lambda word: print(sys.argv[1], word, file=open(sys.argv[2], 'a')); "
said += "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(float(sys.argv[3])), say('ended'), sys.exit())); "
said += "say('ready'); [time.sleep(0.1) for _ in range(10_000)]"
janitor = Guard(rmtree=data)
server = Guard([sys.executable, "-c", said, "server", sys.argv[2], "0"], before=[janitor])
worker = Guard([sys.executable, "-c", said, "worker", sys.argv[2], "0.5"], before=[server, janitor])
print(janitor.pid, server.pid, worker.pid, flush=True)
time.sleep(1000)
"""


def test_when_the_owner_is_killed_the_worker_ends_before_its_server_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    said = tmp_path / "said"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path / "data", said], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    guards = [int(pid) for pid in owner.stdout.readline().split()]
    lines(said, 2)
    everybody = [process.pid for pid in guards for process in psutil.Process(pid).children()] + guards

    owner.kill()
    owner.wait()

    eventually(lambda: all(map(gone, everybody)))
    assert said.read_text().splitlines()[2:] == ["worker ended", "server ended"]
    assert not (tmp_path / "data").exists()


def test_stopping_a_server_does_not_wait_for_workers_that_outlive_it(hello: Path, tmp_path: Path) -> None:
    server = Guard(python(FOR_EVER, hello))
    worker = Guard(python(FOR_EVER, tmp_path / "worker"), before=[server])
    lines(hello, 1)
    lines(tmp_path / "worker", 1)

    # It would be -9, and late, if the guard had to be killed for it.
    assert server.stop() == 128 + signal.SIGTERM

    assert worker.poll() is None
    worker.stop()
