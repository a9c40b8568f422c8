"""What a worker of the prefork pool hands to its children at once, and what becomes of it."""

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import Terminated
from celery.worker import state
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from choreo.broker.incoming import UNCOUNTED
from choreo.broker.redis.taken import Taken
from choreo.broker.workload import written_job
from choreo.events.ids import task_id
from choreo.fast import bundles
from choreo.fast.bundles import Bundles, PooledShortcut
from choreo.fast.child import Success
from choreo.fast.progress import MOST_TOGETHER, Progress

HANDLER = "payment.charge"


class QoS:
    """Takes down what becomes of the messages."""

    def __init__(self) -> None:
        self.delivered: dict[str, Any] = {}
        self.ended: list[tuple[str, Any]] = []

    def append(self, message: Any, tag: str) -> None:
        self.delivered[tag] = message

    def settled(self, tag: str) -> None:
        self.ended.append((tag, "settled"))

    def ack(self, tag: str) -> None:
        self.ended.append((tag, "acked"))

    def reject(self, tag: str, requeue: Any) -> None:
        self.ended.append((tag, requeue))


class Pool:
    """Takes down the jobs, and plays the child of each."""

    def __init__(self) -> None:
        self.jobs: list[SimpleNamespace] = []

    def apply_async(self, _: Any, args: Any, **options: Any) -> Any:
        job = SimpleNamespace(slot=args[0], runs=args[1], **options)
        self.jobs.append(job)
        job.result = SimpleJob()
        return job.result

    def handlers(self) -> list[int]:
        return [len(job.runs) for job in self.jobs]


class SimpleJob:
    """A job that a weak reference can watch, and that was written to a child."""

    _write_to = "a child"


class Worker:
    """A worker with so many children, as far as bundles see it."""

    def __init__(self, children: int) -> None:
        self.pool, self.qos, self.usual = Pool(), QoS(), []
        self.semaphore = LaxBoundedSemaphore(children)
        self.controller = SimpleNamespace(
            semaphore=self.semaphore,
            _quick_acquire=self.semaphore.acquire,
            _quick_release=self.semaphore.release,
            time_limit=None,
            soft_time_limit=None,
            max_tasks_per_child=None,
            max_memory_per_child=None,
            pool_start_method="fork",
        )
        self.turns: list[Any] = []
        hub = SimpleNamespace(call_later=lambda _, turn: self.turns.append(turn))
        self.consumer = SimpleNamespace(pool=self.pool, controller=self.controller, hub=hub)
        self.progress = Progress(8)
        self.bundles = Bundles(self.consumer, self.progress)
        self.task = SimpleNamespace(name=HANDLER, time_limit=None, soft_time_limit=None)
        self.failures: list[str] = []
        way = SimpleNamespace(
            task=self.task, is_clear=True, events=None, tell=lambda *_, **__: None, request=self._request, queue=self
        )
        self.shortcut = PooledShortcut(way, self.bundles)
        self.channel = SimpleNamespace(
            qos=self.qos,
            deliver_usually=lambda taken: self.usual.append(taken.tag),
            message_of=lambda taken: SimpleNamespace(tag=taken.tag, ack_log_error=None, reject_log_error=None),
        )

    def prepare(self, message: Any) -> None:
        """As a queue does."""

    def _request(self, message: Any, *_: Any) -> Any:
        return SimpleNamespace(message=message, on_failure=lambda _: self.failures.append(message.tag))

    def take(self, *numbers: int) -> None:
        for number in numbers:
            assert self.shortcut(self.channel, Taken(HANDLER, f"o:{number}", b"{}", f"1 e-{number}"))

    def answer(self, job: Any, took: float = 0.0001) -> None:
        """The child has done all that is in this job, and is free again."""
        self.semaphore.release()
        job.callback([Success("'done'", took, 1.0, True, None) for _ in job.runs])

    def learn(self, took: float = 0.0001) -> None:
        """Let the worker know how long the handler takes."""
        self.bundles.note(HANDLER, took)


@pytest.fixture(autouse=True)
def _no_requests() -> Iterator[None]:
    state.reset_state()
    yield
    state.reset_state()


def test_a_child_gets_its_fair_share_of_what_waits() -> None:
    worker = Worker(children=2)
    worker.learn()

    worker.take(*range(9))
    assert worker.pool.handlers() == [1, 1]  # both were free
    worker.answer(worker.pool.jobs[0])
    worker.answer(worker.pool.jobs[1])

    assert worker.pool.handlers() == [1, 1, 4, 2]


def test_a_bundle_has_a_largest_size() -> None:
    worker = Worker(children=1)
    worker.learn()

    worker.take(*range(100))
    worker.answer(worker.pool.jobs[0])

    assert worker.pool.handlers() == [1, MOST_TOGETHER]


@pytest.mark.parametrize("took", [None, bundles.QUICK_SECONDS * 2])
def test_an_event_whose_handler_is_slow_or_not_known_yet_is_alone(took: float | None) -> None:
    worker = Worker(children=1)
    if took:
        worker.learn(took)

    worker.take(*range(5))
    worker.answer(worker.pool.jobs[0], took=took or 1.0)

    assert worker.pool.handlers() == [1, 1]


def test_single_long_runs_on_a_busy_machine_do_not_make_a_handler_slow_and_many_do() -> None:
    worker = Worker(children=1)
    for number in range(100):
        worker.learn(0.05 if number % 10 == 0 else 0.0001)
    worker.take(*range(5))
    worker.answer(worker.pool.jobs[0])
    assert worker.pool.handlers() == [1, 4]

    for _ in range(5):
        worker.learn(0.05)
    worker.take(5, 6, 7)
    worker.answer(worker.pool.jobs[1])
    assert worker.pool.handlers() == [1, 4, 1]


@pytest.mark.parametrize("limit", ["time_limit", "soft_time_limit", "max_tasks_per_child", "max_memory_per_child"])
def test_with_a_limit_each_event_is_alone(limit: str) -> None:
    worker = Worker(children=1)
    worker.learn()
    setattr(worker.controller, limit, 10)

    worker.take(*range(5))
    worker.answer(worker.pool.jobs[0])

    assert worker.pool.handlers() == [1, 1]


def test_the_time_limits_of_a_handler_are_those_of_its_job() -> None:
    worker = Worker(children=1)
    worker.learn()
    worker.task.time_limit, worker.task.soft_time_limit = 30, 25

    worker.take(0)

    (job,) = worker.pool.jobs
    assert (job.timeout, job.soft_timeout) == (30, 25)
    assert job.runs[0][-1] is False  # a commit that a signal may interrupt is not sent ahead


def test_what_its_commit_has_acked_is_not_acked_again() -> None:
    worker = Worker(children=1)
    worker.take(0)
    (job,) = worker.pool.jobs

    job.callback([Success("'done'", 0.1, 1.0, False, None)])

    assert worker.qos.ended == [("o:0", "acked")]
    worker.take(1)
    worker.pool.jobs[0].callback([Success("'done'", 0.1, 1.0, True, None)])
    assert not state.active_requests


def test_what_a_child_leaves_goes_the_usual_way() -> None:
    worker = Worker(children=1)
    worker.take(0)

    worker.pool.jobs[0].callback([None])

    assert worker.usual == ["o:0"]
    assert not state.reserved_requests


def bundle_of_three(worker: Worker) -> Any:
    worker.learn()
    worker.take(0, 1, 2, 3)
    worker.answer(worker.pool.jobs[0])
    job = worker.pool.jobs[1]
    assert len(job.runs) == 3
    return job


def test_only_the_run_in_hand_of_a_lost_child_has_failed() -> None:
    worker = Worker(children=1)
    job = bundle_of_three(worker)
    job.accept_callback(4711, 1.0)
    assert worker.progress.begin(job.slot, 0)
    assert worker.progress.begin(job.slot, 1)

    job.error_callback(SimpleNamespace(exception=RuntimeError("lost")))

    assert worker.failures == ["o:2"]
    assert worker.qos.ended[1:] == [("o:1", UNCOUNTED), ("o:3", UNCOUNTED)]
    assert not state.reserved_requests


def test_a_signal_that_meets_another_run_than_it_was_meant_for_counts_for_none() -> None:
    worker = Worker(children=1)
    job = bundle_of_three(worker)
    job.accept_callback(4711, 1.0)
    worker.progress.begin(job.slot, 0)

    job.error_callback(SimpleNamespace(exception=Terminated(-15)))

    assert worker.failures == []
    assert [fate for _, fate in worker.qos.ended[1:]] == [UNCOUNTED] * 3


def test_runs_behind_a_stuck_one_go_to_another_child(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(children=1)
    job = bundle_of_three(worker)
    job.accept_callback(4711, 1.0)
    worker.progress.begin(job.slot, 0)
    monkeypatch.setattr(bundles, "LOOK_SECONDS", -1.0)
    worker.semaphore.release()  # another child is free

    worker.turns[0]()

    assert [[run[2] for run in one.runs] for one in worker.pool.jobs[2:]] == [["o:2"]]
    assert not worker.progress.begin(job.slot, 1)
    job.callback([Success("'done'", 0.1, 1.0, True, None), None, None])
    assert worker.usual == []  # they are elsewhere


def lose_the_connection(worker: Worker) -> None:
    """Forget what Celery and the channel forget then."""
    worker.semaphore.clear()
    worker.qos.delivered.clear()
    for known in (state.requests, state.reserved_requests, state.active_requests):
        known.clear()


@pytest.fixture
def no_collection() -> Iterator[None]:
    """An owner that is retired waits until nothing holds its messages, and collections may be hours apart."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("accepted", [False, True])
def test_what_the_pool_forgets_is_gone(accepted: bool) -> None:
    worker = Worker(children=1)
    job = bundle_of_three(worker)
    worker.take(4)  # it waits for a child
    if accepted:
        job.accept_callback(4711, 1.0)
        worker.progress.begin(job.slot, 0)
        worker.bundles.look()
    runs = [weakref.ref(run) for run in state.reserved_requests]
    assert len(runs) == 4

    lose_the_connection(worker)
    del job
    worker.pool.jobs.clear()

    assert [run() for run in runs] == [None] * 4
    assert all(worker.progress.take() is not None for _ in range(8))  # the slot is free, too


@pytest.mark.usefixtures("no_collection")
def test_a_run_that_was_taken_back_and_waits_is_forgotten_with_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(children=1)
    job = bundle_of_three(worker)
    job.accept_callback(4711, 1.0)
    worker.progress.begin(job.slot, 0)
    monkeypatch.setattr(bundles, "LOOK_SECONDS", -1.0)

    worker.turns[0]()  # no child is free: they wait

    waiting = [weakref.ref(run) for run in state.reserved_requests if run.taken.tag in ("o:2", "o:3")]
    assert len(waiting) == 2
    assert [run().bundle for run in waiting] == [None, None]  # type: ignore[union-attr]
    assert not any(written_job(run()) for run in waiting)
    lose_the_connection(worker)
    job.callback([Success("'done'", 0.1, 1.0, True, None), None, None])
    del job
    worker.pool.jobs.clear()
    assert [run() for run in waiting] == [None, None]


def test_celery_sees_the_run_in_hand_as_active_and_the_others_as_reserved() -> None:
    worker = Worker(children=1)
    job = bundle_of_three(worker)
    job.accept_callback(4711, 1.0)
    worker.progress.begin(job.slot, 0)
    worker.progress.begin(job.slot, 1)

    worker.bundles.look()

    assert [run.id for run in state.active_requests] == [task_id("e-2", HANDLER)]
    assert len(state.reserved_requests) == 3


def test_a_revoked_event_goes_the_usual_way_and_the_next_one_takes_its_place() -> None:
    worker = Worker(children=1)
    worker.take(0, 1)
    state.revoked.add(task_id("e-1", HANDLER))

    worker.answer(worker.pool.jobs[0])

    assert worker.usual == ["o:1"]
    worker.take(2)
    assert worker.pool.jobs[-1].runs[0][2] == "o:2"


@pytest.mark.parametrize(
    "taken",
    [
        Taken(HANDLER, "o:1", b"{}", "2 e-1"),
        Taken(HANDLER, "o:1", b"{}"),
        Taken(HANDLER, "o:1", b'{"properties": {"delivery_info": {"redelivered": true}}}', "1 e-1"),
        Taken(HANDLER, "o:1", b'{"body": "... choreoreplay ..."}', "1 e-1"),
    ],
    ids=["a retry", "not claimed and not as choreo writes it", "redelivered", "a replay"],
)
def test_an_unusual_message_is_left_to_the_channel(taken: Taken) -> None:
    worker = Worker(children=1)

    assert not worker.shortcut(worker.channel, taken)
    assert worker.pool.jobs == []


def test_a_withdrawn_run_does_not_begin() -> None:
    progress = Progress(2)
    slot = progress.take()
    assert slot is not None
    assert progress.begin(slot, 0)

    assert not progress.withdraw(slot, 0)  # it has begun
    assert progress.withdraw(slot, 1)

    assert not progress.begin(slot, 1)
    assert progress.begin(slot, 2)
    assert progress.begun(slot)[0] == 3


def test_slots_are_given_out_again_and_empty() -> None:
    progress = Progress(1)
    slot = progress.take()
    assert slot is not None
    progress.begin(slot, 3)
    assert progress.take() is None

    progress.give_back(slot)

    assert progress.take() == slot
    assert progress.begun(slot) == (0, 0.0)
