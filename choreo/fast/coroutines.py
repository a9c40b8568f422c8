"""
Coroutines in flight: ``async def`` handlers in a worker that runs them in its own process (solo, threads).

A run has three parts. A thread of `Coroutines` begins it: it claims the event and makes the coroutine. The event loop
runs the coroutine. A thread of `Coroutines` ends it: it commits, and acks the message. So a few threads serve as many
runs as the worker has places (``-c``), by the same code as those of plain handlers.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from time import monotonic, time
from typing import Any, Protocol

from celery._state import _task_stack
from celery.app.task import Context
from celery.worker import state

from choreo import event_loop, forks
from choreo.broker.workload import is_stopping
from choreo.event_loop import CoroutineRun

logger = logging.getLogger(__name__)

#: The most threads that begin and end runs. A commit may wait for the store, or for the broker.
THREADS = 4


class Way(Protocol):
    """The way of a handler's deliveries: see `choreo.fast.in_process.InProcess`."""

    task: Any

    def accept(self, request: Any, began: float) -> None:
        """Note in the request that this process runs it."""

    def end(self, request: Any, answer: Any, error: BaseException | None, took: float) -> None:
        """Ack the delivery, and tell of the end of the run."""


class Coroutines:
    """
    The runs of ``async def`` handlers in this process. Safe in threads.

    ``limit`` is how many may be in flight at a time. The others wait, and begin in their order.
    """

    def __init__(self) -> None:
        self.limit = 1
        self.after_fork()
        forks.guard(self)

    def after_fork(self) -> None:
        """Start afresh in a forked child: the runs are the parent's."""
        self._lock = threading.Lock()
        #: Notified when the last run has ended.
        self._rest = threading.Condition(self._lock)
        self._waiting: deque[AsyncRun] = deque()
        self._in_flight = 0
        self._jobs: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        #: The number of threads that do nothing.
        self._free = 0

    def submit(self, way: Way, request: Any) -> None:
        """Run a reserved request, now or when there is room."""
        run = AsyncRun(self, way, request)
        with self._lock:
            if not self._has_room:
                self._waiting.append(run)
                return
            self._in_flight += 1
        self.soon(run.begin)

    @property
    def _has_room(self) -> bool:
        # A stopping worker gives back what it has not begun.
        return self._in_flight < self.limit and not is_stopping()

    @property
    def has_jobs(self) -> bool:
        """True if runs wait to be begun or ended by a thread."""
        return not self._jobs.empty()

    def soon(self, job: Callable[[], object]) -> None:
        """Call ``job`` in one of the threads."""
        self._jobs.put(job)
        if not self._free and len(self._threads) < THREADS:
            with self._lock:
                if len(self._threads) < THREADS:
                    thread = threading.Thread(target=self._work, name="choreo-coroutines", daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _work(self) -> None:
        while True:
            self._free += 1  # not exact: a thread too many does no harm
            job = self._jobs.get()
            self._free -= 1
            try:
                job()
            except BaseException:  # the thread serves other runs
                logger.exception("a run of an async handler could not be begun or ended")

    def ended(self) -> None:
        """Called when a run has ended: its place is free."""
        following = None
        with self._lock:
            self._in_flight -= 1
            if self._waiting and self._has_room:
                following = self._waiting.popleft()
                self._in_flight += 1
            elif not self._in_flight:
                self._rest.notify_all()
        if following is not None:
            self.soon(following.begin)

    def take(self, wanted: set[Any]) -> Iterator[Any]:
        """Take those of these requests that wait for room: they never begin."""
        with self._lock:
            taken = [run for run in self._waiting if run.request in wanted]
            self._waiting = deque(run for run in self._waiting if run not in taken)
        yield from (run.request for run in taken)

    def drain(self) -> None:
        """Begin no more runs, and wait until those in flight have ended."""
        with self._lock:
            self._waiting.clear()
            while self._in_flight:
                self._rest.wait()


class AsyncRun:
    """One run of an ``async def`` handler. ``request`` is Celery's."""

    __slots__ = ("_began", "_context", "_coroutines", "_steps", "_way", "request")

    def __init__(self, coroutines: Coroutines, way: Way, request: Any) -> None:
        self._coroutines, self._way, self.request = coroutines, way, request

    def begin(self) -> None:
        """Claim the event, and start the coroutine."""
        try:
            self._accept()
        except BaseException:
            self._coroutines.ended()  # else its place would never be free, and the worker would never stop
            raise
        self._step(lambda: next(self._steps))

    def _accept(self) -> None:
        request, way = self.request, self._way
        way.accept(request, time())
        self._context = Context(request.request_dict, args=request.args, called_directly=False, kwargs=request.kwargs)
        state.task_accepted(request)
        request.send_event("task-started")
        self._began = monotonic()
        self._steps = way.task.steps(*request.args, **request.kwargs)

    def _landed(self, run: CoroutineRun) -> None:
        """Called in the thread of the event loop."""
        self._coroutines.soon(lambda: self._land(run))

    def _land(self, run: CoroutineRun) -> None:
        error = run.error
        self._step(lambda: self._steps.send(run.result) if error is None else self._steps.throw(error))

    def _step(self, step: Callable[[], Any]) -> None:
        """Go on with the run, and start the coroutine that it comes to, or end it."""
        task, answer, error = self._way.task, None, None
        _task_stack.push(task)
        task.request_stack.push(self._context)
        try:
            event_loop.start(CoroutineRun(step(), task.name, self._landed))
            return
        except StopIteration as end:
            answer = end.value
        except BaseException as raised:  # Celery's tracer handles every kind
            error = raised
        finally:
            _task_stack.pop()
            task.request_stack.pop()
        try:
            self._way.end(self.request, answer, error, monotonic() - self._began)
        finally:
            self._coroutines.ended()
