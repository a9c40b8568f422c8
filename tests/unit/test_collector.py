"""The collector: one thread publishes what coroutines wait for, and tells each of them its own answer."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from choreo.broker import collector as collectors
from choreo.broker.collector import Collector
from choreo.broker.lines import Post
from choreo.errors import PublishError
from choreo.events.message import Message
from tests.waiting import DEADLINE, eventually


class Broker:
    """Takes messages, as long as its gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fault: BaseException | None = None

    def publish(self, messages: Sequence[Message]) -> list[Post]:
        self.batches.append([message.routing_key for message in messages])
        assert self.gate.wait(DEADLINE)
        if self.fault is not None:
            raise self.fault
        return [
            Post(message, confirmed="bad" not in message.routing_key, refused="bad" * ("bad" in message.routing_key))
            for message in messages
        ]

    @property
    def sent(self) -> list[str]:
        return [name for batch in self.batches for name in batch]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def collector(broker: Broker) -> Collector:
    return Collector(broker.publish)


def message(name: object) -> Message:
    return Message("e", str(name), b"")


async def publish(collector: Collector, *names: object) -> list[str]:
    posts = await collector.hand_over([message(name) for name in names]).posts
    return [post.message.routing_key for post in posts if post.confirmed]


def run(call: Callable[[], Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(call(), DEADLINE)

    return asyncio.run(bounded())


def test_what_waits_while_a_batch_is_sent_is_sent_together(broker: Broker, collector: Collector) -> None:
    async def announce() -> list[list[str]]:
        broker.gate.clear()
        first = asyncio.create_task(publish(collector, "first"))
        while not broker.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(publish(collector, number)) for number in range(499)]
        await asyncio.sleep(0)
        broker.gate.set()
        return await asyncio.gather(first, *others)

    answers = run(announce)

    assert answers == [["first"], *([str(number)] for number in range(499))]
    assert [len(batch) for batch in broker.batches] == [1, 499]


def test_what_coroutines_announce_in_one_turn_of_the_loop_is_one_batch(broker: Broker, collector: Collector) -> None:
    async def announce() -> None:
        await asyncio.gather(*(publish(collector, number) for number in range(500)))

    run(announce)

    assert [len(batch) for batch in broker.batches] == [500]


def test_a_batch_is_bounded_and_no_call_is_split(
    broker: Broker, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collectors, "MOST_TOGETHER", 5)

    async def announce() -> None:
        broker.gate.clear()
        calls = [asyncio.create_task(publish(collector, *[name] * 3)) for name in "abc"]
        calls.append(asyncio.create_task(publish(collector, *"d" * 8)))
        await asyncio.sleep(0)
        broker.gate.set()
        await asyncio.gather(*calls)

    run(announce)

    assert sorted("".join(sorted(set(batch))) for batch in broker.batches) == ["a", "b", "c", "d"]


def test_each_coroutine_has_its_own_answer(broker: Broker, collector: Collector) -> None:
    async def announce() -> list[list[str]]:
        return await asyncio.gather(publish(collector, 1, "bad", 2), publish(collector, "bad"), publish(collector, 3))

    assert run(announce) == [["1", "2"], [], ["3"]]


@pytest.mark.parametrize("fault", [ValueError("a bug"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_error_of_the_publisher_reaches_the_coroutines_and_ends_nothing(
    broker: Broker, collector: Collector, fault: BaseException
) -> None:
    async def announce() -> list[str]:
        broker.fault = fault
        with pytest.raises(type(fault)):
            await publish(collector, 1)
        broker.fault = None
        return await publish(collector, 2)

    assert run(announce) == ["2"]


def test_a_stalled_broker_does_not_stall_the_event_loop(broker: Broker, collector: Collector) -> None:
    async def announce() -> None:
        broker.gate.clear()
        waiting = asyncio.create_task(publish(collector, 1))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        broker.gate.set()
        assert await waiting == ["1"]

    run(announce)


def test_what_is_withdrawn_before_it_is_taken_is_not_sent(broker: Broker, collector: Collector) -> None:
    async def announce() -> tuple[bool, bool]:
        broker.gate.clear()
        first = collector.hand_over([message("first")])
        while not broker.batches:
            await asyncio.sleep(0.001)
        second = collector.hand_over([message("second")])
        await asyncio.sleep(0)
        third = collector.hand_over([message("third")])
        told = collector.withdraw(first), collector.withdraw(second)
        first.posts.cancel()
        broker.gate.set()
        await third.posts
        return told

    assert run(announce) == (False, True)
    assert broker.sent == ["first", "third"]


def test_a_coroutine_that_was_cancelled_keeps_no_other_from_its_answer(broker: Broker, collector: Collector) -> None:
    async def announce() -> list[str]:
        broker.gate.clear()
        first = collector.hand_over([message("first")])
        second = collector.hand_over([message("second")])  # in the same turn of the loop: one batch
        while not broker.batches:
            await asyncio.sleep(0.001)
        first.posts.cancel()
        broker.gate.set()
        return [post.message.routing_key for post in await asyncio.wait_for(second.posts, 10)]

    assert run(announce) == ["second"]
    assert broker.batches == [["first", "second"]]


def test_loops_in_several_threads_share_it(broker: Broker, collector: Collector) -> None:
    answers: list[list[str]] = []

    async def announce(number: int) -> None:
        for turn in range(20):
            answers.append(await publish(collector, f"{number}.{turn}"))

    threads = [threading.Thread(target=asyncio.run, args=[announce(number)]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)

    expected = sorted(f"{number}.{turn}" for number in range(4) for turn in range(20))
    assert sorted(name for answer in answers for name in answer) == sorted(broker.sent) == expected


def test_a_loop_that_was_closed_disturbs_no_other(broker: Broker, collector: Collector) -> None:
    async def leave() -> None:
        broker.gate.clear()
        collector.hand_over([message("left")])
        while not broker.batches:
            await asyncio.sleep(0.001)

    asyncio.run(leave())
    broker.gate.set()

    assert run(lambda: publish(collector, "next")) == ["next"]


def test_the_thread_ends_when_it_has_been_idle_and_comes_back(
    broker: Broker, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collectors, "IDLE_SECONDS", 0.01)

    assert run(lambda: publish(collector, 1)) == ["1"]
    eventually(lambda: collector._thread is None)
    assert run(lambda: publish(collector, 2)) == ["2"]


def test_the_end_of_a_program_waits_for_what_was_handed_over(broker: Broker, collector: Collector) -> None:
    async def leave() -> None:
        collector.hand_over([message("last")])
        await asyncio.sleep(0)

    asyncio.run(leave())
    collector.flush(DEADLINE)

    assert broker.sent == ["last"]
    assert run(lambda: publish(collector, "later")) == ["later"]


def test_a_thread_that_cannot_be_started_is_an_error_and_no_wait(
    broker: Broker, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def announce() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(PublishError, match="can't start new thread"):
                await publish(collector, 1)
        assert await publish(collector, 2) == ["2"]

    run(announce)
    assert broker.sent == ["2"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_starts_afresh(broker: Broker, collector: Collector) -> None:
    assert run(lambda: publish(collector, 1)) == ["1"]
    with collector._changed:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if run(lambda: publish(collector, 2)) == ["2"] else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run(lambda: publish(collector, 3)) == ["3"]
