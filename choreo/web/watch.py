"""Looks at the platform every few seconds, so that a page that shows its state asks nobody."""

import time
from collections import defaultdict
from collections.abc import Sequence
from threading import Lock

from choreo.daemon import Daemon
from choreo.delivery.undeclared import is_handler
from choreo.errors import ChoreoError
from choreo.observe.overview import Overview
from choreo.observe.top import Top
from choreo.service import Service
from choreo.store.runs import SHELVES, Recording, Run, shelf_of
from choreo.web.history import STEP, STEPS, History

#: Seconds between two looks.
INTERVAL = 5.0
#: How many runs of each handler are read from the record for the time before the first look, and of how many handlers.
MOST_RUNS, MOST_RECALLED = 2048, 100


class Watch:
    """
    Keeps the newest state of a platform, and its last hour. Its reading is safe in threads.

    ``newest`` is None until the first look has succeeded. ``error`` says why the last look failed; "" if it did not.
    """

    def __init__(self, app: Service, interval: float = INTERVAL) -> None:
        self._app = app
        self._top: Top | None = None
        self.newest: Overview | None = None
        self.error = ""
        #: When the first look succeeded, by the store's clock: seconds since 1970; 0: none has.
        self.since = 0.0
        #: When a look last succeeded, by this machine's clock.
        self.seen = 0.0
        self.history = History()
        self._recalled: set[str] = set()
        self._looking = Lock()
        self._daemon = Daemon("choreo-web-watch", self.look, interval, self._failed)

    def start(self) -> None:
        """Look now, and then again and again, in a thread."""
        self._daemon.start()
        self._daemon.wake()

    def stop(self) -> None:
        """End the thread, and close the connection to the broker."""
        self._daemon.stop()
        if self._top is not None:
            self._top.close()

    def look(self) -> None:
        """Look once. Raises `ChoreoError`."""
        with self._looking:
            self._look()

    def _look(self) -> None:
        if self._top is None:
            self._top = self._app.observe.watch()
        newest = self._top.look()
        self.history.note(newest.at.timestamp(), newest.handlers)
        self.newest, self.seen, self.error = newest, time.time(), ""
        self.since = self.since or newest.at.timestamp()
        self._recall([state.name for state in newest.handlers])

    @property
    def age(self) -> float:
        """Seconds since the last look that succeeded."""
        return time.time() - self.seen

    @property
    def is_old(self) -> bool:
        """True if the newest state is older than a few looks."""
        return self.age > 4 * INTERVAL

    def _recall(self, names: list[str]) -> None:
        """Read the record of handlers that are new here, for as many as is quick."""
        store = self._app.runtime.store
        for name in names:
            if name in self._recalled or len(self._recalled) >= MOST_RECALLED:
                continue
            self._recalled.add(name)
            if is_handler(name) and store.recording:
                runs = store.recent(name, STEP * STEPS, MOST_RUNS)
                self.history.recall(name, runs, told_since(runs, store.recording), store.recording.sample)

    def _failed(self, error: Exception) -> None:
        self.error = str(error) if isinstance(error, ChoreoError) else f"{type(error).__name__}: {error}"


def told_since(runs: Sequence[Run], recording: Recording) -> float:
    """
    The time from which on these are all runs, in seconds since 1970; 0 if they are all there are.

    They were read from `SHELVES` lists, each up to a bound of its own.
    """
    times: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        times[shelf_of(run)].append(run.at)
    bound = min(MOST_RUNS // SHELVES, recording.shelf_length)
    return max((min(its) for its in times.values() if len(its) >= bound), default=0.0)
