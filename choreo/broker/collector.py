"""Publishing for coroutines: one thread publishes what waits as one batch, and tells each coroutine its answer."""

import asyncio
import atexit
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from choreo import forks
from choreo.broker.lines import Post
from choreo.errors import PublishError
from choreo.events.message import Message

logger = logging.getLogger(__name__)

#: The most messages of one batch, except those of one call.
MOST_TOGETHER = 500
#: Seconds without work after which the thread ends. The next message starts another one.
IDLE_SECONDS = 5.0
#: Seconds for which the end of a program waits for messages whose coroutines were cancelled.
SECONDS_AT_EXIT = 5.0


class Handover:
    """Messages that a coroutine has handed over. ``posts`` is the future of their answers."""

    __slots__ = ("is_taken", "is_withdrawn", "loop", "messages", "posts")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.loop = asyncio.get_running_loop()
        self.posts: asyncio.Future[Sequence[Post]] = self.loop.create_future()
        #: True once the thread may have sent some of them.
        self.is_taken = False
        #: True if they are not sent any more.
        self.is_withdrawn = False


class Collector:
    """
    Collects the messages of coroutines, also of several event loops, and publishes those that wait together.

    ``publish`` is a callback: it publishes messages, blocks, and returns a `Post` for each. What the coroutines of a
    loop hand over in one turn of it is passed on together, and what comes while a batch is being confirmed is the next
    one. The thread is started by the first message, and ends when it has been idle. A forked child starts afresh: what
    its parent's coroutines wait for is sent by the parent.
    """

    def __init__(self, publish: Callable[[Sequence[Message]], Sequence[Post]]) -> None:
        self._publish = publish
        self.after_fork()
        forks.guard(self)
        atexit.register(_at_exit, weakref.ref(self))

    def after_fork(self) -> None:
        """Start afresh in a forked child: without a thread, and with nothing that waits."""
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[Handover] = deque()
        #: Event loop → what its coroutines have handed over in this turn.
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Handover]] = WeakKeyDictionary()
        self._thread: threading.Thread | None = None
        self._is_ending = False

    def hand_over(self, messages: Sequence[Message]) -> Handover:
        """
        Hand over messages, which are sent soon. The running event loop gets their answers.

        If no thread can be started, these are a `PublishError`.
        """
        forks.notice()
        handover = Handover(messages)
        with self._changed:
            turn = self._turns.get(handover.loop)
            if turn is None:
                self._turns[handover.loop] = turn = []
                handover.loop.call_soon(self._end_turn, handover.loop)
            turn.append(handover)
        return handover

    def withdraw(self, handover: Handover) -> bool:
        """Take messages back. True: none of them is sent. False: they may have been sent."""
        with self._changed:
            handover.is_withdrawn = not handover.is_taken
        return handover.is_withdrawn

    def flush(self, timeout: float) -> None:
        """Wait until nothing waits any more: ``timeout`` seconds at most."""
        with self._changed:
            thread = self._thread
            self._is_ending = True
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass on to the thread what the coroutines of this loop have handed over in one turn."""
        with self._changed:
            turn = self._turns.pop(loop, [])
            self._waiting += turn
            if self._thread is not None:
                self._changed.notify()
                return
            try:
                self._start()
                return
            except RuntimeError as error:  # the process has too many threads, or ends
                self._waiting.clear()  # without a thread nothing else has waited
                fault = PublishError(f"no thread can be started, in which the event would be sent: {error}")
        _tell(loop, turn, {}, fault)

    def _start(self) -> None:
        self._is_ending = False
        thread = threading.Thread(target=self._run, name="choreo-collector", daemon=True)
        thread.start()
        self._thread = thread

    def _run(self) -> None:
        while batch := self._next():
            posts, fault = self._sent(batch)
            by_loop: dict[asyncio.AbstractEventLoop, list[Handover]] = {}
            for handover in batch:
                by_loop.setdefault(handover.loop, []).append(handover)
            for loop, handovers in by_loop.items():
                _tell(loop, handovers, posts, fault)

    def _next(self) -> list[Handover]:
        """The next batch, once there is one. Empty: the thread has to end."""
        with self._changed:
            while True:
                batch = self._taken()
                if batch:
                    return batch
                if self._is_ending or not self._changed.wait(IDLE_SECONDS):
                    if self._waiting:  # it came while the wait timed out
                        continue
                    self._thread = None
                    return []

    def _taken(self) -> list[Handover]:
        batch: list[Handover] = []
        count = 0
        while self._waiting and (not batch or count + len(self._waiting[0].messages) <= MOST_TOGETHER):
            handover = self._waiting.popleft()
            if not handover.is_withdrawn:
                handover.is_taken = True
                batch.append(handover)
                count += len(handover.messages)
        return batch

    def _sent(self, batch: Sequence[Handover]) -> "tuple[dict[Handover, Sequence[Post]], BaseException | None]":
        messages = [message for handover in batch for message in handover.messages]
        try:
            posts = list(self._publish(messages))
        except BaseException as error:  # the coroutines raise it
            return {}, error
        answers: dict[Handover, Sequence[Post]] = {}
        start = 0
        for handover in batch:
            answers[handover] = posts[start : start + len(handover.messages)]
            start += len(handover.messages)
        return answers, None


def _tell(
    loop: asyncio.AbstractEventLoop,
    handovers: Sequence[Handover],
    posts: dict[Handover, Sequence[Post]],
    fault: BaseException | None,
) -> None:
    def tell() -> None:
        for handover in handovers:
            if handover.posts.done():  # the coroutine was cancelled
                continue
            if fault is not None:
                handover.posts.set_exception(fault)
            else:
                handover.posts.set_result(posts[handover])

    try:
        loop.call_soon_threadsafe(tell)
    except RuntimeError:  # the loop is closed: nobody waits
        logger.debug("an event loop was closed before its events were confirmed")


def _at_exit(collector: "weakref.ref[Collector]") -> None:
    known = collector()
    if known is not None:
        known.flush(SECONDS_AT_EXIT)
