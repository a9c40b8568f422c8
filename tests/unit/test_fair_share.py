"""What waits for a place of the pool is taken in fairness: one handler's events do not hold up another's."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from queue import Empty
from threading import Event
from typing import Any

import pytest
from celery.worker import state
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from choreo.worker.batches import Collected
from choreo.worker.fair_share import FairLine, FairQueue, share_fairly


class Request:
    def __init__(self, name: str, number: int = 0) -> None:
        self.name, self.number, self.id = name, number, f"{name}-{number}"

    def __repr__(self) -> str:
        return self.id


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch) -> set[Any]:
    """The deliveries that the worker has given to its pool, begun or not."""
    found: set[Any] = set()
    monkeypatch.setattr(state, "reserved_requests", found)
    return found


def line(reserved: set[Any], *waiting: Request) -> FairLine:
    line = FairLine(lambda request: request)
    line.extend(waiting)
    reserved.update(waiting)
    return line


def test_the_next_place_goes_to_a_handler_that_has_no_run(reserved: set[Any]) -> None:
    reserved.update({Request("slow", 1), Request("slow", 2)})
    waiting = [*(Request("slow", number) for number in range(3, 9)), Request("quick")]

    fair = line(reserved, *waiting)

    assert fair.take().name == "quick"
    assert list(fair) == waiting[:-1]


def test_the_events_of_one_handler_keep_their_order(reserved: set[Any]) -> None:
    fair = line(reserved, *(Request(name, number) for number in range(3) for name in ("a", "b")))

    taken = [fair.take() for _ in range(6)]

    for name in ("a", "b"):
        assert [request.number for request in taken if request.name == name] == [0, 1, 2]


def test_two_handlers_with_as_many_runs_take_turns(reserved: set[Any]) -> None:
    fair = line(
        reserved, *(Request("a", number) for number in range(3)), *(Request("b", number) for number in range(3))
    )

    assert [fair.take().name for _ in range(6)] == ["a", "b", "a", "b", "a", "b"]


def collected(name: str, *numbers: int) -> Collected:
    batch = Collected(lambda _: None)
    for number in numbers:
        request = Request(name, number)
        request.task = request  # type: ignore[attr-defined]
        batch.add(request)
    return batch


def test_a_batch_is_one_run_of_its_handler(reserved: set[Any]) -> None:
    running, waiting, other = collected("bulk", *range(100)), collected("bulk", 101, 102), collected("index", 1, 2)
    reserved.update(running.members, waiting.members, other.members)
    reserved.update({Request("slow", 1), Request("slow", 2)})
    fair = FairLine(lambda item: item)
    slow = Request("slow", 3)
    reserved.add(slow)
    fair.extend([slow, waiting, other])

    # Runs: two of slow, one of bulk, none of index.
    assert [fair.take() for _ in range(3)] == [other, waiting, slow]


def test_nothing_is_left_to_take_from_an_empty_line(reserved: set[Any]) -> None:
    with pytest.raises(IndexError):
        line(reserved).take()


def test_the_semaphore_of_the_prefork_pool_calls_in_fairness(reserved: set[Any]) -> None:
    class Worker:
        semaphore = LaxBoundedSemaphore(1)

    share_fairly(Worker)
    begun: list[Request] = []
    for request in (Request("slow", 1), Request("slow", 2), Request("slow", 3), Request("quick")):
        reserved.add(request)
        Worker.semaphore.acquire(begun.append, request)

    reserved.discard(begun[0])
    # Another run of the slow handler goes on elsewhere.
    reserved.add(Request("slow", 0))
    Worker.semaphore.release()

    assert [request.name for request in begun] == ["slow", "quick"]
    assert isinstance(Worker.semaphore._waiting, deque)
    Worker.semaphore.clear()
    assert not Worker.semaphore._waiting


def test_a_queue_of_threads_ends_them_after_the_last_job() -> None:
    queue = FairQueue(lambda job: job)
    queue.put(None)
    queue.put(Request("a"))

    assert queue.qsize() == 2
    assert queue.get_nowait().name == "a"
    assert queue.get_nowait() is None
    assert queue.empty()
    with pytest.raises(Empty):
        queue.get_nowait()


def test_an_executor_runs_everything_with_such_a_queue() -> None:
    executor: Any = ThreadPoolExecutor(2)
    executor._work_queue = FairQueue(lambda _: None)
    gate, done = Event(), []

    def job(number: int) -> None:
        gate.wait(60)
        done.append(number)

    for number in range(20):
        executor.submit(job, number)
    gate.set()
    executor.shutdown(wait=True)

    assert sorted(done) == list(range(20))
