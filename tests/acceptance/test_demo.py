"""`make demo` as a newcomer runs it: what it says, and what it leaves behind, however it ends."""

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from handlers.story.performance import choreo_command
from tests.waiting import DEADLINE, eventually

CHECKOUT = Path(__file__).parent.parent.parent


class Demo:
    """A demo whose processes can be told from all others: their TMPDIR is its own, or below."""

    def __init__(self, directory: Path) -> None:
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
                stdout=output,
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
def demo(directory: Path) -> Iterator[Demo]:
    directory.mkdir()
    started = Demo(directory)
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
        "analytics": "24 events heard, of 6 types",
    }
    # What the command line would have said, in its own words.
    (letter,) = re.findall(r"^    \$ choreo dead-letters show (\w+)$", said, re.MULTILINE)
    assert f"    dead letter: {letter}\n    handler:     notification.text_arrival\n    reason:      exhausted" in said
    assert f"    $ choreo dead-letters replay {letter}\n    {letter}: driver.assigned ORD-" in said
    assert said.endswith(f"\n    {choreo_command()} up handlers --flower\n")
    seconds = re.search(r"nothing is left running \((\d+) s\)", said)
    assert seconds is not None
    # On a machine that does nothing else it takes as long as it has to work and to wait; here only its work is counted.
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 60


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
