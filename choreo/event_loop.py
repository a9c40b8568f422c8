"""
The event loop of this process: the coroutines of ``async def`` handlers run on it, in a thread of its own.

There is one loop per process. It starts with the first coroutine, in a forked child as well, and lives until the
process ends. So a client that a handler has made (a pool of connections) can serve the next event, too.

*Tasks of a handler.* A task that a handler creates belongs to its run. If it is still pending when the handler returns,
it is cancelled, and named in the log. A task that is made in a context of its own (`contextvars.Context`) belongs to no
run.

*A blocked loop.* While code runs that does not await, no other coroutine runs. A thread watches for that while there
are coroutines, and logs the place if it takes longer than `BLOCKED_SECONDS`.
"""

import asyncio
import logging
import sys
import threading
from asyncio import AbstractEventLoop, Handle, Task, TimerHandle
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from time import monotonic
from types import FrameType
from typing import Any, NamedTuple

from choreo import forks
from choreo.daemon import Daemon
from choreo.errors import HandlerTimeoutError
from choreo.places import is_library, place
from choreo.printing import one_line

logger = logging.getLogger(__name__)

#: Seconds for which code may run on the loop without an await, before the log says where it is.
BLOCKED_SECONDS = 0.1
#: Seconds between two looks at the loop, while coroutines run.
LOOK_SECONDS = 0.025
#: Seconds without a coroutine after which the loop is looked at no more.
IDLE_SECONDS = 5.0
#: Seconds after which the log names a coroutine that was cancelled, and goes on.
STUBBORN_SECONDS = 1.0
#: Seconds after a hard time limit until the run of a coroutine that does not end counts as ended.
ABANDONED_SECONDS = 5.0
#: The most seconds for which the end of a process waits for its cancelled coroutines.
CLOSING_SECONDS = 1.0


class TimeLimits(NamedTuple):
    """The time limits of a handler, in seconds; None: it has none. At each of them its coroutine is cancelled."""

    soft: float | None = None
    hard: float | None = None


class RunTerminatedError(Exception):
    """An operator has ended the run of a coroutine. ``key`` is the id by which he named it."""

    def __init__(self, why: str, key: str = "") -> None:
        super().__init__(why)
        self.key = key


#: Callback: wraps a coroutine, so that each of its steps runs in the surroundings of its run.
Wrap = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]


class Surroundings(NamedTuple):
    """What the caller of a coroutine gives to it and to its tasks."""

    #: The ids by which its run can be found: several if it handles several events.
    keys: tuple[str, ...] = ()
    wrap: Wrap | None = None


NO_LIMITS, NO_SURROUNDINGS = TimeLimits(), Surroundings()


class CoroutineRun:
    """
    One coroutine of a handler on the event loop, with the tasks that it creates, and its outcome.

    ``name`` is the handler's. ``on_done`` is a callback: gets this run once its outcome is known, in the loop's thread,
    so it must not block.
    """

    __slots__ = (
        "_coroutine",
        "_runs",
        "_task",
        "_timers",
        "_why",
        "error",
        "keys",
        "name",
        "on_done",
        "result",
        "tasks",
    )

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        name: str,
        on_done: "Callable[[CoroutineRun], object]",
    ) -> None:
        self.name, self.on_done = name, on_done
        #: See `Surroundings`.
        self.keys: tuple[str, ...] = ()
        #: What the coroutine returned. It counts if `error` is None.
        self.result: Any = None
        self.error: BaseException | None = None
        #: The pending tasks that it has created.
        self.tasks: set[Task[Any]] = set()
        self._coroutine = coroutine
        self._task: Task[Any] | None = None
        #: Why it was cancelled: the error that it ends with.
        self._why: BaseException | None = None
        #: The pending runs of the loop: this one is among them until its outcome is known.
        self._runs: set[CoroutineRun] = set()
        #: What is called at its time limits.
        self._timers: list[TimerHandle] = []

    def outcome(self) -> Any:
        """Return what the coroutine returned, or raise its error."""
        if self.error is not None:
            raise self.error
        return self.result

    # -- in the thread of the loop -------------------------------------------------------------------------------------

    def begin(
        self,
        loop: AbstractEventLoop,
        runs: "set[CoroutineRun]",
        context: Context,
        wrap: Wrap | None,
        limits: TimeLimits,
    ) -> None:
        """Create the task. ``runs`` are the pending runs of the loop, this one among them."""
        self._runs = runs
        context.run(_run.set, self)
        context.run(_wrap.set, wrap)
        coroutine = self._coroutine if wrap is None else wrap(self._coroutine)
        self._task = Task(coroutine, loop=loop, name=self.name, context=context)
        self._task.add_done_callback(self._on_done)
        if limits.soft:
            text = f"the soft time limit of {limits.soft:g} s was exceeded"
            self._timers.append(loop.call_later(limits.soft, self._limit, text))
        if limits.hard:
            text = f"the time limit of {limits.hard:g} s was exceeded"
            self._timers.append(loop.call_later(limits.hard, self._limit, text))
            self._timers.append(loop.call_later(limits.hard + ABANDONED_SECONDS, self._abandon))

    def cancel(self, why: BaseException) -> None:
        """Cancel the coroutine. It ends with the error ``why``, unless it returns all the same."""
        task = self._task
        if task is None or task.done() or not self.is_pending:
            return
        self._why = why
        task.cancel()
        task.get_loop().call_later(STUBBORN_SECONDS, self._warn_if_stubborn, why)

    @property
    def is_pending(self) -> bool:
        """True until the outcome is known."""
        return self in self._runs

    def place(self) -> str:
        """Where the coroutine waits, such as ``shop/payment.py:12``; "" if that is not known."""
        frames = self._task.get_stack() if self._task is not None else []
        return place_in(frames[-1]) if frames else ""

    def _limit(self, why: str) -> None:
        self.cancel(HandlerTimeoutError(why))

    def _warn_if_stubborn(self, why: BaseException) -> None:
        if self.is_pending and self._why is why:
            logger.warning(
                "%s was cancelled (%s), and goes on at %s: it swallows asyncio.CancelledError. Let it pass, or raise "
                "it again after the cleanup.",
                self.name,
                why,
                self.place() or "an unknown place",
            )

    def _abandon(self) -> None:
        """Give up waiting for a coroutine that goes on after its hard time limit: the attempt has failed."""
        if not self.is_pending or self._why is None:
            return
        logger.error(
            "%s goes on %g s after its time limit, at %s: its attempt has failed, whatever it still does",
            self.name,
            ABANDONED_SECONDS,
            self.place() or "an unknown place",
        )
        self._finish(None, self._why)

    def _on_done(self, task: Task[Any]) -> None:
        try:
            result, error = task.result(), None
        except BaseException as raised:  # any error of a handler is a failure of that handler
            result, error = None, raised
            # A task that was cancelled before its first step never awaited its coroutine.
            self._coroutine.close()
        if not self.is_pending:
            return
        why = self._why
        if why is not None and error is None:
            logger.warning("%s was cancelled (%s), and returned all the same: that counts", self.name, why)
        elif why is not None and error is not None:
            if why.__traceback__ is None:
                why = why.with_traceback(error.__traceback__)
            if not isinstance(error, asyncio.CancelledError):
                why.__context__ = error
            error = why
        self._finish(result, error)

    def _finish(self, result: Any, error: BaseException | None) -> None:
        self._runs.discard(self)
        self.result, self.error = result, error
        for timer in self._timers:
            timer.cancel()
        if self.tasks:
            self._cancel_orphans()
        self.on_done(self)

    def _cancel_orphans(self) -> None:
        orphans = [task for task in self.tasks if not task.done()]
        if not orphans:
            return
        for task in orphans:
            task.cancel()
        logger.warning(
            "%s has ended, and left %d task(s) behind, which are cancelled: %s. Await a task before the handler "
            "returns, or create it in a context of its own: see docs/async.md.",
            self.name,
            len(orphans),
            ", ".join(sorted(map(_name_of, orphans))),
        )


#: The run that the current code belongs to, and what wraps its tasks.
_run: ContextVar[CoroutineRun | None] = ContextVar("choreo_coroutine_run", default=None)
_wrap: ContextVar[Wrap | None] = ContextVar("choreo_coroutine_wrap", default=None)


class EventLoop:
    """
    An event loop in a thread of its own. `shared` is the one of this process.

    ``limits`` and ``surroundings`` are callbacks that a worker sets: the first gets a handler's name; the second is
    called by the thread that starts a coroutine.
    """

    def __init__(self) -> None:
        self.limits: Callable[[str], TimeLimits] = lambda _: NO_LIMITS
        self.surroundings: Callable[[], Surroundings] = lambda: NO_SURROUNDINGS
        self._watch = _Watch(self)
        #: The loops of parent processes. If Python closed one here, the parent's would lose its wake-ups.
        self._inherited: list[AbstractEventLoop] = []
        self._loop: AbstractEventLoop | None = None
        self.after_fork()
        forks.guard(self)

    def after_fork(self) -> None:
        """Start afresh in a forked child: the thread and the coroutines are the parent's."""
        if self._loop is not None:
            self._inherited.append(self._loop)
        self._loop = None
        self._opening = threading.Lock()
        self._closing = False
        self._thread: threading.Thread | None = None
        #: The runs whose outcome is not known yet.
        self.runs: set[CoroutineRun] = set()

    @property
    def loop(self) -> AbstractEventLoop:
        """The loop itself. It is started if it does not run."""
        loop = self._loop
        if loop is None:
            with self._opening:
                loop = self._loop or self._open()
        return loop

    @property
    def thread(self) -> int | None:
        """The id of the loop's thread; None if it does not run."""
        return self._thread.ident if self._thread is not None else None

    def start(self, run: CoroutineRun) -> None:
        """Start a coroutine. It runs in a copy of the context of this thread."""
        loop, limits = self.loop, self.limits(run.name)
        run.keys, wrap = self.surroundings()
        self.runs.add(run)
        self._watch.begin()
        loop.call_soon_threadsafe(run.begin, loop, self.runs, copy_context(), wrap, limits)

    def wait(self, coroutine: Coroutine[Any, Any, Any], name: str) -> Any:
        """
        Run a coroutine, and wait until it is done. Returns what it returns, and raises what it raises.

        If a signal raises an error in this thread (a soft time limit), the coroutine is cancelled, and ends with it.
        Raises `RuntimeError` in the thread of the loop, which would wait for itself.
        """
        if threading.get_ident() == self.thread:
            coroutine.close()
            raise RuntimeError(f"{name} would wait for a coroutine in the event loop's own thread: await it instead")
        done = threading.Event()
        run = CoroutineRun(coroutine, name, lambda _: done.set())
        self.start(run)
        try:
            done.wait()
        except BaseException as error:
            self.cancel(run, error)
            if not isinstance(error, Exception):
                raise  # the process ends
            done.wait()  # a cleanup may take until the hard time limit
        return run.outcome()

    def cancel(self, run: CoroutineRun, why: BaseException) -> None:
        """Cancel a coroutine, from any thread: see `CoroutineRun.cancel`."""
        self.loop.call_soon_threadsafe(run.cancel, why)

    def terminate(self, key: str, why: str) -> bool:
        """Cancel the coroutine with this key. False if none has it. It ends with a `RunTerminatedError`."""
        for run in self.runs.copy():
            if key in run.keys:
                self.cancel(run, RunTerminatedError(why, key))
                return True
        return False

    def _open(self) -> AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_task_factory(_new_task)
        self._thread = threading.Thread(target=self._main, args=(loop,), name="choreo-event-loop", daemon=True)
        self._thread.start()
        self._loop = loop
        return loop

    def _main(self, loop: AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while not self._closing:
            try:
                loop.run_forever()
            except BaseException as error:
                # asyncio lets SystemExit and KeyboardInterrupt of a task pass; they must not end the others.
                logger.error("a task of a handler raised %s; the event loop goes on", one_line(repr(error)))
        _cancel_all(loop)
        loop.close()

    def close(self) -> None:
        """Cancel what still runs, and end the thread. Nothing may be started after that in this process."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or loop.is_closed():
            return
        self._closing = True
        self._watch.end()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(2 * CLOSING_SECONDS)


def _cancel_all(loop: AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    try:
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSING_SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except BaseException as error:  # the process ends in any case
        logger.debug("the event loop could not end in order: %r", error)


def _new_task(loop: AbstractEventLoop, coroutine: Any, **options: Any) -> "Task[Any]":
    """Make a task, and note it as one of the run that creates it."""
    context = options.get("context")
    run, wrap = (_run.get(), _wrap.get()) if context is None else (context.get(_run), context.get(_wrap))
    if run is None:
        return Task(coroutine, loop=loop, **options)
    task: Task[Any] = Task(coroutine if wrap is None else wrap(coroutine), loop=loop, **options)
    run.tasks.add(task)
    task.add_done_callback(run.tasks.discard)
    return task


def _name_of(task: "Task[Any]") -> str:
    coroutine: Any = task.get_coro()
    return f"{getattr(coroutine, '__qualname__', repr(coroutine))} ({task.get_name()})"


class _Watch:
    """
    Logs where the loop is blocked. Its thread looks while there are coroutines, and a few seconds longer.

    It looks at the stack of the loop's thread. The loop calls each callback, and each step of a coroutine, in a frame
    of its own. The loop is blocked if it is in the same frame for too long: a busy loop is not.
    """

    def __init__(self, owner: EventLoop) -> None:
        self._owner = owner
        self._daemon = Daemon("choreo-event-loop-watch", self._look, LOOK_SECONDS)
        self.after_fork()
        forks.guard(self)

    def after_fork(self) -> None:
        """Start afresh: the parent's loop is no concern of this process."""
        self._is_awake = False
        #: The frame of the callback that ran at the last look, and the time of the first look that saw it.
        self._seen: FrameType | None = None
        self._since = 0.0
        self._is_told = False
        self._idle_since = 0.0

    def begin(self) -> None:
        """Called when a coroutine is started."""
        if not self._is_awake:
            self._is_awake, self._idle_since = True, 0.0
            self._daemon.start()
            self._daemon.wake()

    def end(self) -> None:
        """Look no more."""
        self._daemon.end()

    def _look(self) -> float | None:
        now = monotonic()
        innermost = sys._current_frames().get(self._owner.thread or 0)
        running = _callback_in(innermost)
        if running is not self._seen:
            if self._is_told:
                logger.warning("the event loop goes on after %.0f ms", (now - self._since) * 1000)
            self._seen, self._since, self._is_told = running, now, False
        elif running is not None and innermost is not None and now - self._since >= BLOCKED_SECONDS:
            self._tell(innermost)
        if self._owner.runs:
            self._idle_since = 0.0
        elif not self._idle_since:
            self._idle_since = now
        elif now - self._idle_since > IDLE_SECONDS:
            self._seen, self._is_awake = None, False
            if self._owner.runs:  # it has just begun
                self.begin()
            return 3600.0
        return LOOK_SECONDS

    def _tell(self, innermost: FrameType) -> None:
        if self._is_told:
            return
        self._is_told = True
        logger.warning(
            "the event loop is blocked for more than %.0f ms by %s, at %s. Meanwhile no other coroutine of this "
            "process runs. Use an asynchronous library there, or await asyncio.to_thread(...).",
            BLOCKED_SECONDS * 1000,
            self._running() or "a callback",
            place_in(innermost),
        )

    def _running(self) -> str:
        """The handler whose coroutine runs now; "" if that is not known."""
        task = asyncio.current_task(self._owner.loop)
        for run in self._owner.runs.copy():
            if task is not None and (task is run._task or task in run.tasks):
                return run.name
        return ""


def _callback_in(frame: FrameType | None) -> FrameType | None:
    """The frame in which asyncio calls the callback, or makes the step, that runs in this one; None if none runs."""
    while frame is not None and frame.f_code is not Handle._run.__code__:
        frame = frame.f_back
    return frame


def place_in(frame: FrameType) -> str:
    """The innermost line of the user's code in this frame and its callers, such as ``shop/payment.py:12``."""
    inner, outer = frame, frame.f_back
    while is_library(inner.f_code.co_filename) and outer is not None:
        inner, outer = outer, outer.f_back
    found = frame if is_library(inner.f_code.co_filename) else inner
    return place(found.f_code.co_filename, found.f_lineno)


#: The event loop of this process.
shared = EventLoop()

start, wait, terminate = shared.start, shared.wait, shared.terminate
