"""Jobs of the pages: they run in the server, ask, are stopped, and end."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from choreo.errors import ChoreoError, DeadLetterError
from choreo.web.jobs import KEPT, MOST, Job, Jobs, State
from tests.waiting import eventually


@dataclass
class Progress:
    """How far a job is."""

    done: int
    total: int = 3
    refused: int = 0
    again: int = 0
    text: str = ""

    @property
    def ended(self) -> bool:
        return self.done == self.total

    @property
    def canary(self) -> str | None:
        return "done" if self.done == 1 else None


class Letters:
    """Letters, of which each is replayed when a test says so."""

    def __init__(self, total: int = 3) -> None:
        self.total, self.closed = total, False
        self.next = threading.Semaphore(0)

    def steps(self) -> Iterator[Progress]:
        try:
            for number in range(1, self.total + 1):
                assert self.next.acquire(timeout=30)
                yield Progress(number, self.total)
        finally:
            self.closed = True


def job(group: str = "a3f1") -> Job:
    return Job(f"Replay of {group}", group, "it is mended", "me")


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    found = Jobs()
    yield found
    found.close()


def over(one: Job) -> Job:
    eventually(lambda: one.is_over)
    return one


def test_a_job_goes_through_all_steps_and_is_shown_when_it_has_ended(jobs: Jobs):
    letters, one = Letters(), job()
    jobs.start(one, letters.steps)
    letters.next.release()
    eventually(lambda: one.step is not None and one.step.done == 1)
    assert (one.state, jobs.of("a3f1")) == (State.RUNNING, one)

    letters.next.release(2)

    assert over(one).state is State.DONE
    assert one.step is not None
    assert one.step.done == 3
    assert jobs.of("a3f1") is None
    assert list(jobs) == [one]
    assert jobs.get(one.id) is one


def test_a_job_asks_after_the_first_letter_and_goes_on_when_it_is_told(jobs: Jobs):
    letters, one = Letters(), job()
    letters.next.release(3)
    jobs.start(one, letters.steps, asks=True)
    eventually(lambda: one.state is State.ASKING)
    assert one.step is not None
    assert one.step.done == 1

    one.go_on()

    assert over(one).state is State.DONE


def test_a_job_that_asks_is_stopped(jobs: Jobs):
    letters, one = Letters(), job()
    letters.next.release(3)
    jobs.start(one, letters.steps, asks=True)
    eventually(lambda: one.state is State.ASKING)

    one.stop()

    assert over(one).state is State.STOPPED
    assert one.step is not None
    assert one.step.done == 1
    eventually(lambda: letters.closed)


def test_a_job_that_runs_is_stopped_after_its_step(jobs: Jobs):
    letters, one = Letters(100), job()
    jobs.start(one, letters.steps)
    letters.next.release()
    eventually(lambda: one.step is not None)

    one.stop()
    letters.next.release(99)

    assert over(one).state is State.STOPPED
    assert one.step is not None
    assert one.step.done == 2
    assert letters.closed


def test_a_job_that_ends_before_its_last_letter_is_told_as_stopped(jobs: Jobs):
    one = job()

    jobs.start(one, lambda: iter([Progress(1)]))

    assert over(one).state is State.STOPPED


def test_a_single_letter_is_not_asked_about(jobs: Jobs):
    letters, one = Letters(1), job()
    letters.next.release()

    jobs.start(one, letters.steps, asks=True)

    assert over(one).state is State.DONE


@pytest.mark.parametrize(
    ("error", "told"), [(DeadLetterError("no such group"), "no such group"), (ValueError("x"), "ValueError: x")]
)
def test_a_job_that_fails_tells_why(jobs: Jobs, error: Exception, told: str):
    def steps() -> Iterator[Progress]:
        raise error
        yield

    one = job()
    jobs.start(one, steps)

    assert over(one).state is State.FAILED
    assert one.error == told


def test_one_group_has_one_job_at_a_time(jobs: Jobs):
    letters = Letters()
    jobs.start(job(), letters.steps)

    with pytest.raises(ChoreoError, match="works on this group already"):
        jobs.start(job(), letters.steps)
    for number in range(MOST - 1):
        jobs.start(job(f"b{number}"), letters.steps)
    with pytest.raises(ChoreoError, match=f"{MOST} of these run already"):
        jobs.start(job("another"), letters.steps)
    letters.next.release(99)


def test_only_a_few_of_the_ended_jobs_are_kept(jobs: Jobs):
    for number in range(KEPT + 3):
        one = job(f"g{number}")
        letters = Letters(1)
        letters.next.release()
        jobs.start(one, letters.steps)
        over(one)

    assert len(list(jobs)) == KEPT + 1


def test_an_answer_before_it_asks_is_none(jobs):
    letters, one = Letters(), job()
    jobs.start(one, letters.steps, asks=True)

    one.go_on()
    letters.next.release(3)

    eventually(lambda: one.state is State.ASKING)
    assert one.step is not None
    assert one.step.done == 1
    one.go_on()
    eventually(lambda: one.is_over)
    assert one.state is State.DONE
