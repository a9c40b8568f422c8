"""Background threads go on after any error, and forked children start afresh."""

import os
import threading

from choreo import forks
from choreo.daemon import Daemon
from tests.waiting import DEADLINE, eventually


def test_neither_an_error_of_a_turn_nor_one_of_its_report_ends_the_thread():
    turns: list[int] = []

    def turn() -> None:
        turns.append(len(turns))
        raise ValueError("a turn")

    def report(error: Exception) -> None:
        raise RuntimeError(f"the report of {error}")

    daemon = Daemon("test-daemon", turn, 0.01, report)
    daemon.start()
    try:
        assert eventually(lambda: len(turns) > 3)
        assert daemon.is_running
    finally:
        daemon.stop(DEADLINE)
    assert not daemon.is_running


def test_a_daemon_that_was_woken_takes_its_turn_at_once_and_its_answer_is_the_next_wait():
    turned = threading.Event()
    daemon = Daemon("test-daemon", lambda: turned.set() or DEADLINE, 10 * DEADLINE)
    daemon.start()

    daemon.wake()

    assert turned.wait(DEADLINE)
    daemon.stop(DEADLINE)


class Forked:
    def __init__(self, *, fails: bool = False) -> None:
        self.fails, self.started_in = fails, 0
        forks.guard(self)

    def after_fork(self) -> None:
        if self.fails:
            raise OSError("no")
        self.started_in = os.getpid()


def test_every_object_starts_afresh_in_a_child_though_another_one_cannot():
    things = [Forked(fails=True), Forked(), Forked(fails=True), Forked()]

    child = os.fork()
    if child == 0:
        os._exit(0 if [thing.started_in for thing in things] == [0, os.getpid(), 0, os.getpid()] else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert [thing.started_in for thing in things] == [0] * 4
