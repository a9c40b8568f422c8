"""Blocking calls of coroutines, in threads of their own: a full default executor of asyncio delays none of them."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from choreo import forks

logger = logging.getLogger(__name__)

#: The most threads of a process.
THREADS = 4

T = TypeVar("T")


class _Threads:
    """The threads. They are started when they are needed, and a forked child has none."""

    def __init__(self) -> None:
        self.after_fork()
        forks.guard(self)

    def after_fork(self) -> None:
        """Start afresh in a forked child."""
        self._lock, self.making = threading.Lock(), threading.RLock()
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[[], T]) -> "Future[T]":
        """Call a function in one of the threads."""
        forks.notice()
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="choreo-offload")
        return self._executor.submit(function)


_threads = _Threads()


def made_once(make: Callable[[], T]) -> T:
    """Call ``make`` while no other thread of this process does: for what is made when it is first read."""
    with _threads.making:
        return make()


async def in_thread(function: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """
    Call a blocking function in a thread, and return its result. The caller's context variables are set there.

    If the await is cancelled, the call is left out, or goes on without its caller. ``undo`` is a callback: it gets the
    result of such a call, in a thread.
    """
    context = copy_context()
    call = _threads.submit(lambda: context.run(function))
    try:
        return await asyncio.wrap_future(call)
    except asyncio.CancelledError:
        if undo is not None:
            call.add_done_callback(lambda done: _undo(done, undo))
        raise


def _undo(done: "Future[Any]", undo: Callable[[Any], object]) -> None:
    # The callback may be called in the thread of the event loop.
    if not done.cancelled() and done.exception() is None:
        _threads.submit(lambda: _undone(done.result(), undo))


def _undone(result: Any, undo: Callable[[Any], object]) -> None:
    try:
        undo(result)
    except Exception as error:  # nobody waits for it
        logger.warning("what a cancelled coroutine has begun could not be undone: %s", error)
