"""Reports of rare things, from a process to the store: nobody waits for them."""

import atexit
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping

from choreo import forks
from choreo.errors import ChoreoError

logger = logging.getLogger(__name__)

#: Seconds for which things are counted before they are reported together.
SECONDS_TOGETHER = 1.0
#: Seconds for which the end of a program waits for its last report.
SECONDS_AT_EXIT = 2.0


class Reports:
    """
    Counts things in this process by their names, such as types of events that nobody hears, and reports the counts.

    ``report`` is a callback: it gets name → count. ``what`` says in a log what is reported. The report runs in a thread
    that ends with it: nobody waits for it, and a store that is away disturbs nobody. What could not be reported is
    reported with the next such thing. A process that is killed takes its last second along. Safe in threads, and after
    a fork.
    """

    def __init__(self, report: Callable[[Mapping[str, int]], object], what: str) -> None:
        self._report, self._what = report, what
        self.after_fork()
        forks.guard(self)
        atexit.register(_at_exit, weakref.ref(self))

    def after_fork(self) -> None:
        """Start afresh in a forked child: its parent reports what the parent has counted."""
        self._lock, self._ends = threading.Lock(), threading.Event()
        self._counts = Counter[str]()
        self._thread: threading.Thread | None = None

    def note(self, name: str) -> None:
        """Count one more of this name. Raises nothing: who calls it has done what is counted."""
        with self._lock:
            self._counts[name] += 1
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="choreo-reports", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the process has too many threads, or ends (Python 3.12)
            logger.info("the store is not told of %s until a thread can be started: %s", self._what, error)
        else:
            self._thread = thread

    def flush(self, timeout: float) -> None:
        """Report at once, and wait for the end of it: ``timeout`` seconds at most."""
        self._ends.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        self._ends.clear()

    def _run(self) -> None:
        while True:
            self._ends.wait(SECONDS_TOGETHER)
            counts = self._taken()
            if not counts:
                return
            try:
                self._report(counts)
            except Exception as error:
                level = logging.INFO if isinstance(error, ChoreoError) else logging.ERROR
                logger.log(level, "the store is not told of %s (%s): %s", self._what, ", ".join(counts), error)
                self._give_back(counts)
                return

    def _taken(self) -> Mapping[str, int]:
        with self._lock:
            counts, self._counts = self._counts, Counter()
            if not counts:
                self._thread = None
            return counts

    def _give_back(self, counts: Mapping[str, int]) -> None:
        with self._lock:
            self._counts.update(counts)
            self._thread = None


def _at_exit(reports: "weakref.ref[Reports]") -> None:
    known = reports()
    if known is not None:
        known.flush(SECONDS_AT_EXIT)
