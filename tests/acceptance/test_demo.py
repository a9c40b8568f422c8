"""`make demo` as a newcomer runs it: what it says, and what it leaves behind, however it ends."""

import os
import pty
import re
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from handlers.story.performance import choreo_command
from tests.waiting import DEADLINE, eventually

CHECKOUT = Path(__file__).parent.parent.parent


class Demo:
    """A demo whose processes can be told from all others: their TMPDIR is its own, or below."""

    def __init__(self, directory: Path, terminal: int | None = None) -> None:
        """``terminal``: the file descriptor of its terminal, if it has one."""
        self.directory = directory
        self.output = directory.parent / "output"
        environment = os.environ | {
            "TMPDIR": str(directory),
            # The demo needs neither: if it used them, it would fail.
            "CHOREO_BROKER_URL": "redis://127.0.0.1:1/0",
            "CHOREO_STORE_URL": "redis://127.0.0.1:1/0",
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "handlers.demo"],
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=output if terminal is None else terminal,
                stderr=subprocess.STDOUT,
                # A group of its own, as a shell makes one: Ctrl-C goes to all of it.
                start_new_session=True,
            )

    def said(self) -> str:
        return self.output.read_text()

    def wait_until_it_says(self, words: str) -> None:
        eventually(lambda: words in self.said() or self.process.poll() is not None, reason=f"the demo says {words!r}")
        assert words in self.said()

    def running(self) -> list[str]:
        """The command lines of everything that the demo started and that still runs."""
        lines = []
        for process in self._processes():
            with suppress(psutil.Error):  # it may end while it is looked at
                lines.append(" ".join(process.cmdline()))
        return lines

    def left_behind(self) -> list[str]:
        return self.running() + [str(path) for path in self.directory.iterdir()]

    def kill_the_rest(self) -> None:
        for process in self._processes():
            with suppress(psutil.Error):
                process.kill()

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("TMPDIR", "").startswith(str(self.directory)):
                    yield process


@contextmanager
def demo(directory: Path, terminal: int | None = None) -> Iterator[Demo]:
    directory.mkdir()
    started = Demo(directory, terminal)
    try:
        yield started
    finally:
        started.kill_the_rest()
        started.process.wait()


def test_the_demo_tells_its_story_within_a_minute_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with demo(tmp_path / "tmp") as told:
        code = told.process.wait(3 * DEADLINE)

        said = told.said()
        assert code == 0, said
        assert told.left_behind() == []
    assert [line for line in said.splitlines() if len(line) > 80] == []
    assert "\033" not in said
    assert re.findall(r"^\d\..*", said, re.MULTILINE) == [
        "1. Everybody does their part",
        "2. The restaurant says no",
        "3. The payment provider does not answer",
        "4. A dead letter, and a second chance",
        "5. A service is stopped, and nobody notices",
    ]
    assert re.search(r"Flower .* http://127\.0\.0\.1:\d+/tasks", said)
    for line in [
        "order.placed -> order.confirmed_by_restaurant",
        "order.placed -> order.rejected_by_restaurant",
        "-> payment.refunded",
        "assign_driver waits",
        "-> driver.assigned",
        "order.placed -> attempt 2 of 6 failed: GatewayTimeout",
        "driver.assigned -> attempt 3 of 3 failed: dead letter",
        "dead_letter.recorded -> alarm_operator done",
        "$ choreo dead-letters replay ",
        "Both are served. 2 events wait",
    ]:
        assert line in said
    assert _table(said) == {
        "order": "6 orders accepted, 6 announced",
        "restaurant": "5 confirmed, 1 rejected",
        "payment": "6 charged, 1 refunded",
        "driver": "5 drivers sent",
        "notification": "6 messages sent, 1 alarm for the operator",
        "loyalty": "87 points held",
        "analytics": "25 events heard, of 7 types",
    }
    # What the command line would have said, in its own words.
    (letter,) = re.findall(r"^    \$ choreo dead-letters show (\w+)$", said, re.MULTILINE)
    told = [
        f"dead letter: {letter}",
        "handler:     notification.text_arrival",
        r"group:       \w+",
        "reason:      exhausted",
    ]
    assert re.search("\n".join(f"    {line}" for line in told), said), said
    assert f"    $ choreo dead-letters replay {letter}\n    {letter}: driver.assigned ORD-" in said
    # The trace of the order whose message was a dead letter.
    trace = said.partition("$ choreo trace ")[2]
    assert re.match(r"(ORD-\w+)\n\1  done in ", trace), trace
    for line in ["dead letter, replayed since: SmsGatewayDown", "driver.assign_driver", "order.placed"]:
        assert line in trace
    assert said.endswith(f"\n    {choreo_command()} up handlers --flower --pages\n")
    seconds = re.search(r"nothing is left running \((\d+) s\)", said)
    assert seconds is not None
    # On a machine that does nothing else it takes as long as it has to work and to wait; here only its work is counted.
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 60


class Terminal:
    """A terminal, and what was printed on it."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        self._said = b""

    def said(self) -> str:
        with suppress(BlockingIOError):
            while more := os.read(self._ours, 10_000):
                self._said += more
        return self._said.decode()

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def close(self) -> None:
        os.close(self._ours)
        os.close(self.theirs)


@pytest.mark.parametrize("key", ["Enter", "Ctrl-C"])
def test_on_a_terminal_the_pages_are_served_until_a_key_is_pressed(tmp_path: Path, key: str) -> None:
    with closing(Terminal()) as terminal, demo(tmp_path / "tmp", terminal.theirs) as served:
        eventually(lambda: "Enter ends the demo." in terminal.said(), reason="the demo serves its pages")
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+/stories\?q=ORD-\w+", terminal.said())
        with urllib.request.urlopen(url) as answer:
            page = answer.read().decode()
        assert "notification.text_arrival" in page

        if key == "Enter":
            terminal.press(b"\n")
        else:
            os.killpg(served.process.pid, signal.SIGINT)

        assert served.process.wait(DEADLINE) == (0 if key == "Enter" else 130), terminal.said()
        assert served.left_behind() == []
        assert "nothing is left running" in terminal.said(), terminal.said()


def test_ctrl_c_ends_everything_with_one_line(tmp_path: Path) -> None:
    with demo(tmp_path / "tmp") as interrupted:
        interrupted.wait_until_it_says("order.placed")
        assert len(interrupted.running()) > 10

        os.killpg(interrupted.process.pid, signal.SIGINT)

        assert interrupted.process.wait(DEADLINE) == 130
        assert interrupted.left_behind() == []
        assert interrupted.said().endswith("\nInterrupted. Stopping everything ... done, nothing is left running.\n")
        assert "Traceback" not in interrupted.said()


@pytest.mark.parametrize("when", ["Starting", "order.placed"])
def test_kill_9_leaves_nothing_behind(tmp_path: Path, when: str) -> None:
    with demo(tmp_path / "tmp") as killed:
        killed.wait_until_it_says(when)
        eventually(lambda: len(killed.running()) > 2, reason="something runs beside the demo")

        killed.process.kill()

        assert killed.process.wait() == -signal.SIGKILL
        eventually(lambda: killed.left_behind() == [], reason="nothing is left behind")


def _table(said: str) -> dict[str, str]:
    rows = re.findall(r"^  (\w+) {2,}(.+)$", said.partition("counted in its own database")[2], re.MULTILINE)
    return dict(rows)
