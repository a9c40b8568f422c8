"""Background threads: named, stoppable, and not ended by an error."""

import logging
import threading
from collections.abc import Callable

from choreo import forks

logger = logging.getLogger(__name__)


class Daemon:
    """
    A daemon thread that calls ``turn`` again and again.

    ``turn`` is a callback that returns the seconds until its next call, or None for ``interval`` (seconds). The first
    call comes ``interval`` after `start`. If it raises, ``on_error`` gets the error (by default it is logged with its
    traceback), and the next call comes after ``interval``.

    The thread runs until `stop`, `end` or the end of the process. A stopped daemon cannot be started again. A forked
    child has no thread, and may call `start`.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[], float | None],
        interval: float,
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        self.name = name
        self._turn, self._interval = turn, interval
        self._on_error = on_error or self._log
        self._start_afresh()
        forks.guard(self)

    def _start_afresh(self) -> None:
        #: True from `start` until the thread has ended.
        self.is_running = False
        self._thread: threading.Thread | None = None
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._starting = threading.Lock()

    def after_fork(self) -> None:
        """Start afresh in a forked child: not started, and not stopped."""
        self._start_afresh()

    @property
    def is_stopped(self) -> bool:
        """True once `stop` or `end` was called."""
        return self._stopped.is_set()

    def start(self) -> None:
        """Start the thread. Does nothing if it runs, or was stopped."""
        with self._starting:
            if not self.is_running and not self.is_stopped:
                thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                thread.start()
                self._thread, self.is_running = thread, True

    def wake(self) -> None:
        """Make the thread call ``turn`` now instead of at its time."""
        self._wake.set()

    def end(self) -> None:
        """Make the thread end after its current turn, without waiting for that."""
        self._stopped.set()
        self._wake.set()

    def stop(self, timeout: float = 5.0) -> None:
        """Make the thread end, and wait for its end: ``timeout`` seconds at most."""
        self.end()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        wait: float | None = None
        try:
            while True:
                self._wake.wait(self._interval if wait is None else wait)
                self._wake.clear()
                if self._stopped.is_set():
                    return
                wait = self._take_turn()
        finally:
            self.is_running = False

    def _take_turn(self) -> float | None:
        try:
            return self._turn()
        except Exception as error:  # no error of one turn may end the thread
            try:
                self._on_error(error)
            except Exception:  # nor an error of its report
                self._log(error)
            return None

    def _log(self, error: Exception) -> None:
        logger.error("%s failed in one turn, and goes on", self.name, exc_info=error)
