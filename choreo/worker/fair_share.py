"""A fair share of the pool for each handler of a worker.

Celery's pools begin deliveries in the order in which they came. So a dozen events of a slow handler, taken in one go,
would hold up a quick one for as long as all of them take. Here a free place goes to the handler that has the fewest
runs; of several, to the one that has waited for longest. So if a handler has no run, its next event waits for one place
at most, once the worker has taken it. The events of one handler keep their order. A batch is one run.
"""

from collections import Counter, deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock
from typing import Any

from celery.concurrency.thread import TaskPool as ThreadPool
from celery.worker import state

from choreo.broker.workload import listed
from choreo.worker.batches import Collected
from choreo.worker.unbegun import requests_in

#: The most that wait among which another handler's is looked for.
MOST_LOOKED = 1000


class FairLine(deque[Any]):
    """
    What waits for a place, in the order in which it came. `take` finds what is next in fairness.

    ``request_of`` is a callback: it returns the request in an item, a `Collected` batch of requests, or None.
    """

    def __init__(self, request_of: Callable[[Any], Any]) -> None:
        super().__init__()
        self._request_of = request_of

    def take(self) -> Any:
        """Remove and return the first item of the handler with the fewest runs. Raises `IndexError` if none waits."""
        if len(self) < 2 or len(self) > MOST_LOOKED:
            return self.popleft()
        firsts: dict[str, int] = {}
        waiting = set[int]()
        for place, item in enumerate(self):
            request = self._request_of(item)
            firsts.setdefault(getattr(request, "name", ""), place)
            waiting.update(map(id, request.members if isinstance(request, Collected) else (request,)))
        if len(firsts) == 1:
            return self.popleft()
        begun = [request for request in listed(state.reserved_requests) if id(request) not in waiting]
        runs = Counter(name for name, _ in {(request.name, _run_of(request)) for request in begun})
        place = firsts[min(firsts, key=lambda name: (runs[name], firsts[name]))]
        item = self[place]
        del self[place]
        return item


def _run_of(request: Any) -> int:
    """The same number for all members of one batch."""
    # Looked up in this way, a run of the fast lane need not make Celery's request.
    return id(vars(request).get("batch") or request)


class FairQueue:
    """
    The queue of a `concurrent.futures.ThreadPoolExecutor`, with a `FairLine` in it.

    It has the methods that the executor and `choreo.worker.unbegun` call. None, which ends a thread, comes last.
    """

    def __init__(self, request_of: Callable[[Any], Any]) -> None:
        self._line, self._lock = FairLine(request_of), Lock()
        #: One for each item.
        self._marks: SimpleQueue[None] = SimpleQueue()

    def put(self, item: Any) -> None:
        """Add an item."""
        if item is not None:
            with self._lock:
                self._line.append(item)
        self._marks.put(None)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Remove and return the next item. Raises `queue.Empty` as `queue.Queue.get` does."""
        self._marks.get(block, timeout)
        with self._lock:
            return self._line.take() if self._line else None

    def get_nowait(self) -> Any:
        """Remove and return the next item. Raises `queue.Empty` if there is none."""
        return self.get(block=False)

    def qsize(self) -> int:
        """How many items wait."""
        return self._marks.qsize()

    def empty(self) -> bool:
        """True if none waits."""
        return self._marks.empty()


def share_fairly(worker: Any) -> None:
    """Give each handler of a worker, whose pool has not begun anything yet, its fair share of the pool."""
    if isinstance(getattr(worker, "pool", None), ThreadPool):
        worker.pool.executor._work_queue = FairQueue(_in_executor)
        return
    # A worker without an event loop has none, and the pools solo and gevent do not use theirs.
    semaphore = getattr(worker, "semaphore", None)
    if semaphore is not None:
        semaphore._waiting = line = FairLine(_in_semaphore)
        semaphore._add_waiter, semaphore._pop_waiter = line.append, line.take


def _in_semaphore(entry: Any) -> Any:
    """The request in what waits for a child of the prefork pool."""
    return next(iter(entry[1]), None)


def _in_executor(job: Any) -> Any:
    """The request in what waits for a thread."""
    # Celery's first argument is the name of the task.
    return next((one for one in requests_in(job) if hasattr(one, "name")), None)
