"""Sightings: which events a program announces outside of handlers. No code says so; the register learns it here."""

import atexit
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence

from choreo import forks
from choreo.errors import ChoreoError

logger = logging.getLogger(__name__)

#: Seconds for which the end of a program waits until the store has its sightings.
AT_EXIT = 2.0


class Sightings:
    """
    Tells the register of each type of event when this process first announces it.

    ``report`` is a callback: it gets the types and tells the register. It runs in a thread that ends with it, so that
    nobody waits, and a store that is away disturbs nobody. What it could not tell is told with the next type.
    """

    def __init__(self, report: Callable[[Sequence[str]], object]) -> None:
        self._report = report
        self._known: set[str] = set()
        self._waiting: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        forks.guard(self)
        atexit.register(_at_exit, weakref.ref(self))

    def after_fork(self) -> None:
        """Start afresh in a forked child: its parent tells what the parent has seen."""
        self._lock, self._thread, self._waiting = threading.Lock(), None, set()

    def note(self, types: Iterable[str]) -> None:
        """Note that events of these types were announced. For known types it costs a look into a set each."""
        new = [kind for kind in types if kind not in self._known]
        if not new:
            return
        with self._lock:
            self._known.update(new)
            self._waiting.update(new)
            if self._thread is None:
                self._thread = threading.Thread(target=self._tell, name="choreo-sightings", daemon=True)
                self._thread.start()

    def flush(self, timeout: float) -> None:
        """Wait until the register has been told, ``timeout`` seconds at most."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _tell(self) -> None:
        while types := self._taken():
            try:
                self._report(types)
            except ChoreoError as error:
                logger.info("choreo map does not learn that this program announces %s: %s", ", ".join(types), error)
                self._give_back(types)
                return

    def _taken(self) -> list[str]:
        with self._lock:
            types, self._waiting = sorted(self._waiting), set()
            if not types:
                self._thread = None
            return types

    def _give_back(self, types: Sequence[str]) -> None:
        with self._lock:
            self._waiting.update(types)
            self._thread = None


def _at_exit(sightings: "weakref.ref[Sightings]") -> None:
    known = sightings()
    if known is not None:
        known.flush(AT_EXIT)
