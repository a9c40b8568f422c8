"""The event loop of a process: coroutines of handlers, their tasks, their limits, and what blocks it."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context
from typing import Any

import pytest

from choreo import event_loop
from choreo.errors import HandlerTimeoutError
from choreo.event_loop import CoroutineRun, EventLoop, RunTerminatedError, Surroundings, TimeLimits
from tests.waiting import eventually


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    made = EventLoop()
    yield made
    made.close()


def limited(loop: EventLoop, soft: float | None = None, hard: float | None = None) -> EventLoop:
    loop.limits = lambda _: TimeLimits(soft, hard)
    return loop


async def returns(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def test_a_thread_may_wait_for_a_coroutine(loop: EventLoop):
    assert loop.wait(returns(17), "payment.charge") == 17
    assert loop.runs == set()


def test_many_run_at_a_time_in_one_thread(loop: EventLoop):
    threads: set[int] = set()
    done = threading.Semaphore(0)

    async def sleeps() -> None:
        threads.add(threading.get_ident())
        await asyncio.sleep(0.2)

    began = time.monotonic()
    for _ in range(200):
        loop.start(CoroutineRun(sleeps(), "payment.charge", lambda _: done.release()))
    assert all(done.acquire(timeout=30) for _ in range(200))

    assert time.monotonic() - began < 10  # one after the other they would take 40 s
    assert threads == {loop.thread}


def test_waiting_in_its_own_thread_is_refused_and_not_a_deadlock(loop: EventLoop):
    async def waits() -> None:
        loop.wait(returns(1), "payment.charge")

    with pytest.raises(RuntimeError, match="would wait for a coroutine in the event loop's own thread"):
        loop.wait(waits(), "payment.charge")


def test_a_soft_limit_cancels_and_the_error_says_which(loop: EventLoop):
    with pytest.raises(HandlerTimeoutError, match=r"^the soft time limit of 0\.05 s was exceeded$") as raised:
        limited(loop, soft=0.05).wait(asyncio.sleep(60), "payment.charge")

    assert raised.value.__traceback__ is not None


def test_the_error_of_a_cleanup_does_not_hide_the_limit(loop: EventLoop):
    async def cleans_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("the cleanup failed")

    with pytest.raises(HandlerTimeoutError) as raised:
        limited(loop, hard=0.05).wait(cleans_up(), "payment.charge")

    assert isinstance(raised.value.__context__, ValueError)


def test_one_that_returns_although_it_was_cancelled_has_succeeded_and_is_logged(
    loop: EventLoop, caplog: pytest.LogCaptureFixture
):
    async def swallows() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "done"

    assert limited(loop, soft=0.05).wait(swallows(), "payment.charge") == "done"
    assert "payment.charge was cancelled (the soft time limit of 0.05 s was exceeded), and returned all the same" in (
        caplog.text
    )


def test_one_that_goes_on_after_its_hard_limit_is_given_up(
    loop: EventLoop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(event_loop, "STUBBORN_SECONDS", 0.05)
    monkeypatch.setattr(event_loop, "ABANDONED_SECONDS", 0.3)
    goes_on = threading.Event()

    async def stubborn() -> None:
        while not goes_on.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    with pytest.raises(HandlerTimeoutError, match=r"^the time limit of 0\.05 s was exceeded"):
        limited(loop, hard=0.05).wait(stubborn(), "payment.charge")

    assert "it swallows asyncio.CancelledError" in caplog.text
    assert "payment.charge goes on 0.3 s after its time limit, at " in caplog.text
    assert "test_event_loop.py:" in caplog.text
    goes_on.set()


def test_a_run_can_be_terminated_by_any_of_its_keys(loop: EventLoop):
    loop.surroundings = lambda: Surroundings(("task-1", "task-2"))
    ended: list[CoroutineRun] = []
    loop.start(CoroutineRun(asyncio.sleep(60), "payment.charge", ended.append))

    assert not loop.terminate("task-3", "by mistake")
    assert not loop.terminate("", "by mistake")
    assert loop.terminate("task-2", "an operator ended it")

    (run,) = eventually(lambda: ended)
    assert isinstance(run.error, RunTerminatedError)
    assert run.error.key == "task-2"
    assert not loop.terminate("task-1", "again")


def test_a_signal_that_raises_cancels_the_coroutine(loop: EventLoop):
    class Limit(Exception):
        pass

    def raises(*_: object) -> None:
        raise Limit

    ended: list[str] = []

    async def sleeps() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cleaned up")

    before = signal.signal(signal.SIGUSR2, raises)
    try:
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR2]).start()
        with pytest.raises(Limit):
            loop.wait(sleeps(), "payment.charge")
    finally:
        signal.signal(signal.SIGUSR2, before)

    assert ended == ["cleaned up"]


def test_an_orphan_in_a_context_of_its_own_is_nobodys(loop: EventLoop, caplog: pytest.LogCaptureFixture):
    tasks: list[asyncio.Task[None]] = []

    async def connects() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(60), context=Context()))
        tasks.append(asyncio.create_task(asyncio.sleep(60)))

    loop.wait(connects(), "payment.charge")

    eventually(tasks[1].cancelled)
    assert not tasks[0].done()
    assert "left 1 task(s) behind" in caplog.text


def test_a_task_that_exits_does_not_end_the_loop(loop: EventLoop, caplog: pytest.LogCaptureFixture):
    async def exits() -> None:
        raise SystemExit(3)

    async def leaves() -> None:
        asyncio.create_task(exits())  # noqa: RUF006 - that is the mistake
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.wait(leaves(), "payment.charge")

    assert loop.wait(returns(2), "payment.charge") == 2
    assert "a task of a handler raised SystemExit(3); the event loop goes on" in caplog.text


def computes() -> None:
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        pass


@pytest.mark.parametrize("blocks", [lambda: time.sleep(0.6), computes], ids=["waits", "computes"])
def test_a_blocked_loop_is_logged_with_its_place(
    loop: EventLoop, caplog: pytest.LogCaptureFixture, blocks: Callable[[], object]
):
    async def blocking() -> None:
        await asyncio.sleep(0.05)
        blocks()
        await asyncio.sleep(0.1)

    with caplog.at_level(logging.WARNING):
        loop.wait(blocking(), "payment.charge")

    assert "the event loop is blocked for more than 100 ms by payment.charge, at " in caplog.text
    assert "test_event_loop.py:" in caplog.text
    assert "the event loop goes on after " in eventually(lambda: "goes on" in caplog.text and caplog.text)


def test_a_forked_child_has_a_loop_of_its_own():
    assert event_loop.wait(returns(1), "payment.charge") == 1
    reader, writer = os.pipe()

    child = os.fork()
    if child == 0:
        os.write(writer, str(event_loop.wait(returns(2), "payment.charge")).encode())
        os._exit(0)

    assert os.read(reader, 10) == b"2"
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    assert event_loop.wait(returns(3), "payment.charge") == 3
