"""A property that is computed once: by several threads, and in a child that was forked meanwhile."""

import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

import choreo
import choreo.forks
from choreo.cached import cached_property
from tests.waiting import DEADLINE

HERE = Path(choreo.__file__).parent


class Slow:
    """Its property is computed as soon as ``gate`` is open."""

    def __init__(self) -> None:
        self.computing, self.gate = threading.Event(), threading.Event()

    @cached_property
    def value(self) -> object:
        """A new object."""
        self.computing.set()
        assert self.gate.wait(DEADLINE)
        return object()


def test_it_is_computed_once_and_described() -> None:
    slow = Slow()
    slow.gate.set()

    assert slow.value is slow.value
    assert Slow.value.__doc__ == "A new object."


def test_the_first_value_counts_for_all_threads() -> None:
    slow = Slow()
    with ThreadPoolExecutor(4) as threads:
        values = [threads.submit(lambda: slow.value) for _ in range(4)]
        assert slow.computing.wait(DEADLINE)
        slow.gate.set()

        assert len({value.result() for value in values}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_is_forked_while_a_thread_computes_it_does_not_wait_for_that_thread() -> None:
    slow: Any = Slow()
    thread = threading.Thread(target=lambda: slow.value)
    thread.start()
    assert slow.computing.wait(DEADLINE)

    child = os.fork()
    if not child:
        signal.alarm(30)  # it ends a child that waits
        other = Slow()
        other.gate.set()
        os._exit(0 if other.value is other.value else 1)
    slow.gate.set()
    thread.join(DEADLINE)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_neither_does_it_wait_for_a_cached_property_of_kombu() -> None:
    lock = vars(Connection)["recoverable_connection_errors"].lock  # type: ignore[attr-defined]
    locked, gate = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            locked.set()
            gate.wait(DEADLINE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(DEADLINE)

    child = os.fork()
    if not child:
        signal.alarm(30)
        connection = Connection("memory://")
        os._exit(0 if connection.recoverable_connection_errors else 1)
    gate.set()
    thread.join(DEADLINE)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_choreo_uses_no_other_one() -> None:
    other = re.compile(r"functools import .*\bcached_property\b|functools\.cached_property|kombu.* cached_property")
    found = [
        path
        for path in HERE.rglob("*.py")
        if other.search(path.read_text()) and path.name not in ("cached.py", "forks.py")
    ]

    assert found == []
