"""The batches of a worker: which deliveries are collected, when a batch begins, and what can be taken back."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from choreo.broker.incoming import UNCOUNTED
from choreo.declare.batch import Batch
from choreo.delivery.ending import End
from choreo.worker.batches import Batches, Collected, largest_of
from choreo.worker.request import PROBE, SPECIAL, SafeRequest


class Timer:
    """Celery's timer, whose entries the test lets fall due."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def call_after(self, seconds: float, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        entry = SimpleNamespace(seconds=seconds, call=call, args=args, is_cancelled=False)
        entry.cancel = lambda: setattr(entry, "is_cancelled", True)
        self.entries.append(entry)
        return entry

    def pass_time(self) -> None:
        entries, self.entries = self.entries, []
        for entry in entries:
            if not entry.is_cancelled:
                entry.call(*entry.args)


class Request:
    """Celery's request for a delivery, as far as batches read it."""

    expires = None

    def __init__(self, number: int, batch: Batch | None, queue: str = "search.index", **facts: Any) -> None:
        self.id = f"task-{number}"
        subscription = SimpleNamespace(batch=batch)
        self.task = SimpleNamespace(
            name=queue, subscription=subscription, soft_time_limit=None, time_limit=None, app=SimpleNamespace()
        )
        self.app = SimpleNamespace(use_fast_trace_task=False)
        self.delivery_info = {"redelivered": facts.pop("redelivered", False)}
        self.request_dict = facts
        self.message = SimpleNamespace(choreo_queue=queue, delivery_info={})
        self.args = ["{}"]
        self.told: list[Any] = []

    def on_accepted(self, *_: Any) -> None:
        self.told.append("accepted")

    def on_success(self, answer: Any) -> None:
        self.told.append(answer)

    def on_failure(self, *_: Any) -> None:
        self.told.append("failed")

    def humaninfo(self) -> str:
        return self.id


@pytest.fixture
def begun() -> list[Any]:
    return []


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def batches(begun: list[Any], timer: Timer) -> Batches:
    return Batches(SimpleNamespace(timer=timer), begun.append)


SIZE_3 = Batch(size=3, wait=5)


def test_a_full_batch_begins_at_once_and_its_timer_is_cancelled(batches: Batches, begun: list[Any], timer: Timer):
    requests = [Request(number, SIZE_3) for number in range(4)]

    for request in requests:
        batches(request)

    (collected,) = begun
    assert collected.members == requests[:3]
    assert (timer.entries[0].seconds, timer.entries[0].is_cancelled) == (5, True)
    assert batches.held() == {"search.index": 1}


def test_a_batch_that_is_not_full_begins_after_its_wait(batches: Batches, begun: list[Any], timer: Timer):
    batches(Request(1, SIZE_3))
    assert not begun

    timer.pass_time()

    assert [len(collected.members) for collected in begun] == [1]
    assert not batches.held()


def test_handlers_have_batches_of_their_own(batches: Batches, begun: list[Any], timer: Timer):
    for number in range(2):
        batches(Request(number, SIZE_3))
        batches(Request(number, SIZE_3, queue="search.count"))

    timer.pass_time()

    assert [len(collected.members) for collected in begun] == [2, 2]


@pytest.mark.parametrize(
    "request_",
    [
        Request(1, None),
        Request(1, SIZE_3, retries=1),
        Request(1, SIZE_3, redelivered=True),
        Request(1, SIZE_3, **{SPECIAL: [PROBE, "token"]}),
    ],
    ids=["no batch handler", "retry", "redelivered", "probe"],
)
def test_what_must_run_alone_begins_at_once(batches: Batches, begun: list[Any], request_: Request):
    batches(request_)

    assert begun == [request_]


def test_what_has_not_begun_is_taken_back_from_one_queue(batches: Batches, begun: list[Any], timer: Timer):
    waiting = [Request(number, SIZE_3) for number in range(3)]
    collecting, other = Request(3, SIZE_3), Request(4, SIZE_3, queue="search.count")
    for request in (*waiting, collecting, other):
        batches(request)

    assert [*batches.take_from("search.index")] == [collecting, *waiting]

    timer.pass_time()
    full, rest = begun
    assert full.members == []
    assert rest.members == [other]
    with pytest.raises(TaskRevokedError, match="no event of the batch is left"):
        full.execute_using_pool(SimpleNamespace())


def test_nothing_of_a_batch_that_has_begun_is_taken_back():
    collected = Collected(lambda request: None)  # noqa: ARG005
    collected.members = [Request(1, SIZE_3)]
    collected._on_accepted(7, 0.0)

    assert collected.take_back(lambda _: True) == []
    assert collected.members[0].told == ["accepted"]


def test_a_worker_that_stops_begins_nothing_that_it_collects(batches: Batches, begun: list[Any], timer: Timer):
    batches(Request(1, SIZE_3))

    batches.forget()
    timer.pass_time()

    assert not begun
    assert not batches.held()


def test_each_member_hears_its_own_answer_whatever_happens_with_another():
    collected = Collected(lambda request: None)  # noqa: ARG005
    first, second = Request(1, SIZE_3), Request(2, SIZE_3)
    collected.members = [first, second]

    def fail(*_: Any) -> None:
        raise OSError("the connection is gone")

    first.on_success = fail  # type: ignore[method-assign]
    collected._on_success([(0, "done", 0.1), (0, "done before", 0.1)])

    assert second.told == [(0, "done before", 0.1)]


def test_of_a_batch_that_was_terminated_only_the_event_that_was_meant_is_revoked(monkeypatch: pytest.MonkeyPatch):
    noted: list[Any] = []
    monkeypatch.setattr(SafeRequest, "_record_end", lambda request, end, _: noted.append((request.id, end)))
    monkeypatch.setattr(SafeRequest, "_tell_revoked", lambda *_, **__: None)
    monkeypatch.setattr(SafeRequest, "_process", "process 7")
    monkeypatch.setattr(SafeRequest, "reject", lambda request, requeue: noted.append((request.id, requeue)))
    monkeypatch.setattr(
        SafeRequest, "on_failure", lambda request, _: request._announce_revoked("terminated", True, "9", False)
    )
    collected = Collected(lambda request: None)  # noqa: ARG005
    collected.members = [object.__new__(SafeRequest) for _ in range(2)]
    for number, request in enumerate(collected.members):
        request.id = f"task-{number}"
    collected.members[1]._sent = 9  # by `celery control terminate task-1`

    collected._on_failure(None)

    assert noted == [("task-0", UNCOUNTED), ("task-1", End.TERMINATED), ("task-1", True)]


def test_the_prefetch_depends_on_the_largest_batch():
    some = [SimpleNamespace(batch=batch) for batch in (None, Batch(size=7), Batch(size=30))]

    assert largest_of(some) == 30
    assert largest_of(some[:1]) == 0
