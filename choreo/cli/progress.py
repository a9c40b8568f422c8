"""The progress of a long command: a bar on a terminal, now and then a line elsewhere; and Ctrl-C between two steps."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from types import FrameType
from typing import Any

from choreo.cli.app import say
from choreo.operate.group_replay import Progress

#: Seconds between two lines, where there is no terminal.
EVERY = 5.0


class Interrupted(Exception):
    """Ctrl-C was pressed."""


class Stop:
    """Remembers that Ctrl-C was pressed."""

    def __init__(self) -> None:
        self._is_wanted = False

    def want(self, _: int, __: FrameType | None) -> None:
        """Called with the signal. The second one raises `KeyboardInterrupt`."""
        if self._is_wanted:
            raise KeyboardInterrupt
        self._is_wanted = True

    def check(self) -> None:
        """Raise `Interrupted` if Ctrl-C was pressed."""
        if self._is_wanted:
            raise Interrupted


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Context manager: Ctrl-C raises nothing in the middle of a step. `Stop.check` raises it between two steps."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, stop.want)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class Watched(AbstractContextManager["Watched"]):
    """Shows the progress of ``total`` letters that are ``done``, a word in the past tense."""

    def __init__(self, total: int, done: str) -> None:
        self._total, self._done = total, done
        self._bar: Any = None
        self._next = monotonic() + EVERY

    def __enter__(self) -> "Watched":
        if sys.stderr.isatty():
            self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, told: Progress) -> None:
        """Show how far it is."""
        if self._bar is not None:
            self._bar.update(self._task, completed=told.done + told.refused, again=_again(told))
        elif monotonic() >= self._next and not told.ended:
            self._next = monotonic() + EVERY
            say(f"{told.done} of {told.total} {self._done}{_again(told)}", err=True)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Context manager: the bar is away, so that a question can be asked. Ctrl-C ends the question."""
        if self._bar is not None:
            self._bar.stop()
        before = signal.getsignal(signal.SIGINT)
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            if is_main:
                signal.signal(signal.SIGINT, before)
            if self._bar is not None:
                self._bar.start()

    def _begin(self) -> None:
        # Imported here: rich costs a third of a command's start.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = BarColumn(), MofNCompleteColumn(), TextColumn(f"{self._done}{{task.fields[again]}}")
        self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=self._total, again="")
        self._bar.start()


def _again(told: Progress) -> str:
    return f", {told.again} failed again" if told.again else ""
