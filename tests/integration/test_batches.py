"""Batches in real workers: on both brokers, in every pool, with the fast lane and without it."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from choreo import Event, Reason
from tests.integration.workers import Payment, Worker
from tests.servers import rabbitmq_vhost, require_rabbitmq
from tests.waiting import DEADLINE, eventually


class BookSold(Event, type="batches_app.book_sold"):
    number: int = 0
    fails: bool = False
    kills: bool = False
    waits: bool = False
    seconds: float = 0.0


#: Broker, pool, and whether the fast lane is on.
WAYS = [
    ("redis", "solo", True),
    ("redis", "threads", True),
    ("redis", "prefork", True),
    ("redis", "solo", False),
    ("redis", "prefork", False),
    ("rabbitmq", "solo", True),
    ("rabbitmq", "threads", True),
    ("rabbitmq", "prefork", True),
]
SOME = [("redis", "threads", True), ("redis", "prefork", True), ("redis", "solo", False), ("rabbitmq", "prefork", True)]


class Search:
    """The service and its workers, seen from outside."""

    def __init__(self, payment: Payment, pool: str, lane: bool) -> None:
        self._payment, self._pool, self._lane = payment, pool, lane
        self.app = payment.app

    def start(self, name: str = "one", places: int = 1, **settings: Any) -> Worker:
        settings = {"choreo_fast_lane": self._lane, **settings}
        return self._payment.worker("-P", self._pool, "-c", str(places), name=name, **settings)

    def publish(self, count: int, first: int = 0, **fields: dict[int, Any]) -> None:
        events = [
            BookSold(number=number, **{name: values[number] for name, values in fields.items() if number in values})
            for number in range(first, first + count)
        ]
        for event in events:
            self.app.publish(event, subject=f"B-{event.number}")

    def notes(self, what: str) -> list[Any]:
        notebook = self._payment._notebook
        return [json.loads(text) for text in notebook.lrange(f"{self._payment.namespace}:{what}", 0, -1)]

    def done(self) -> list[int]:
        return sorted(number for call in self.notes("done") for number in call)

    def wait_until_done(self, numbers: Sequence[int]) -> None:
        eventually(lambda: set(numbers) <= set(self.done()), reason=f"{len(numbers)} books to be indexed")
        eventually(lambda: sorted(self.notes("counted")) == sorted(numbers), reason="each to be counted once")
        assert self.done() == sorted(numbers)

    def open(self) -> None:
        self._payment.open()


@pytest.fixture(scope="module")
def rabbitmq_url() -> Iterator[Callable[[], str]]:
    with ExitStack() as stack:
        made: list[str] = []

        def url() -> str:
            if not made:
                made.append(stack.enter_context(rabbitmq_vhost(require_rabbitmq())))
            return made[0]

        yield url


@pytest.fixture
def search(
    request: pytest.FixtureRequest,
    redis_url: str,
    rabbitmq_url: Callable[[], str],
    namespace: str,
    tmp_path: Path,
) -> Iterator[Search]:
    broker, pool, lane = request.param
    url = redis_url if broker == "redis" else rabbitmq_url()
    payment = Payment(url, redis_url, namespace, tmp_path, app="batches_app")
    yield Search(payment, pool, lane)
    payment.close()


def ids(way: tuple[str, str, bool]) -> str:
    return f"{way[0]}-{way[1]}{'' if way[2] else '-lane off'}"


every_way = pytest.mark.parametrize("search", WAYS, indirect=True, ids=ids)
some_ways = pytest.mark.parametrize("search", SOME, indirect=True, ids=ids)


@every_way
def test_a_worker_handles_events_in_batches_and_each_once(search: Search) -> None:
    search.start()

    search.publish(25)

    search.wait_until_done(range(25))
    sizes = [len(call) for call in search.notes("calls")]
    assert max(sizes) <= 10
    assert len(sizes) <= 6, sizes
    assert not search.app.dead_letters.find()


@some_ways
def test_only_the_event_that_fails_is_retried_alone_and_becomes_a_dead_letter(search: Search) -> None:
    search.start()

    search.publish(20, fails={7: True})

    eventually(search.app.dead_letters.find, reason="a dead letter")
    search.wait_until_done([number for number in range(20) if number != 7])
    (letter,) = search.app.dead_letters.find()
    assert (letter.subject, letter.attempts, letter.reason) == ("B-7", 2, Reason.EXHAUSTED)
    assert len([call for call in search.notes("calls") if call == [7]]) == 2


@some_ways
def test_an_event_that_kills_its_worker_ends_up_alone_and_the_others_are_done(search: Search) -> None:
    worker = search.start(broker_transport_options={"consumer_timeout": 2.0})

    search.publish(10, kills={3: True})

    def is_over() -> bool:
        nonlocal worker
        if worker.process.poll() is not None:
            worker = search.start(f"next{time.monotonic()}", broker_transport_options={"consumer_timeout": 2.0})
        return bool(search.app.dead_letters.find()) and len(search.notes("counted")) >= 9

    eventually(is_over, 2 * DEADLINE, "the event to be a dead letter, and the others to be done")
    search.wait_until_done([number for number in range(10) if number != 3])
    (letter,) = search.app.dead_letters.find()
    assert (letter.subject, letter.reason) == ("B-3", Reason.POISON)
    together, *alone = [call for call in search.notes("calls") if 3 in call]
    assert len(together) > 1
    assert alone == [[3]] * len(alone)


@pytest.mark.parametrize("dies", ["before", "after"])
@some_ways
def test_a_kill_at_the_commit_of_a_batch_loses_nothing_and_commits_each_once(search: Search, dies: str) -> None:
    options = {"broker_transport_options": {"consumer_timeout": 2.0}, "dies": dies}
    worker = search.start(**options)

    search.publish(10)

    def is_over() -> bool:
        nonlocal worker
        if worker.process.poll() is not None:
            worker = search.start(f"next{time.monotonic()}", **options)
        return len(set(search.notes("counted"))) == 10

    eventually(is_over, 2 * DEADLINE, "each event to be counted")
    assert sorted(search.notes("counted")) == list(range(10)), "what they announce left once"
    first = search.notes("done")[0]
    again = [number for call in search.notes("done")[1:] for number in call]
    assert len(first) > 1
    if dies == "before":
        assert set(first) <= set(again), "none of them was done"
        assert all(len(call) == 1 for call in search.notes("calls")[1:] if set(call) & set(first)), "each runs alone"
    else:
        assert not set(first) & set(again), "all of them were done"
    assert not search.app.dead_letters.find()


@some_ways
def test_a_worker_that_stops_gives_back_what_it_collects_at_once(search: Search) -> None:
    worker = search.start(wait=60)
    search.publish(3)
    eventually(lambda: _listed(search, "reserved") == 3, reason="three events to be collected")
    assert not search.notes("calls")

    began = time.monotonic()
    worker.stop()

    assert time.monotonic() - began < 20
    search.start("two")
    search.wait_until_done(range(3))


@some_ways
def test_a_pause_takes_back_what_is_collected(search: Search) -> None:
    search.start(wait=60)
    search.publish(3)
    eventually(lambda: _listed(search, "reserved") == 3, reason="three events to be collected")

    search.app.pauses.pause("payment.index", reason="a test")

    eventually(lambda: _listed(search, "reserved") == 0, reason="the events to be given back")
    search.app.pauses.resume("payment.index", reason="a test")
    search.publish(10, first=3)
    eventually(lambda: len(search.done()) >= 10, reason="a full batch")
    assert not search.app.dead_letters.find()


# The one thread of a solo worker answers nothing while a handler runs.
@pytest.mark.parametrize("search", [way for way in SOME if way[1] != "solo"], indirect=True, ids=ids)
def test_each_event_of_a_running_batch_is_shown_as_active(search: Search) -> None:
    search.start(size=5, wait=60)  # all five in one batch, however slow this machine is
    search.publish(5, waits={2: True})

    eventually(lambda: _listed(search, "active") == 5, reason="five active runs")

    search.open()
    search.wait_until_done(range(5))


@some_ways
def test_a_revoked_event_leaves_its_batch_and_becomes_a_dead_letter(search: Search) -> None:
    search.start(wait=3)
    search.publish(3)
    eventually(lambda: _listed(search, "reserved") == 3, reason="three events to be collected")
    requests = [one for some in _inspect(search, "reserved").values() for one in some]
    (revoked,) = [one["id"] for one in requests if "B-1" in str(one["args"]) + str(one)]

    search.app.control.revoke(revoked)

    search.wait_until_done([0, 2])
    eventually(search.app.dead_letters.find, reason="a dead letter")
    (letter,) = search.app.dead_letters.find()
    assert (letter.subject, letter.reason) == ("B-1", Reason.REVOKED)


@pytest.mark.parametrize("limit", ["soft_time_limit", "time_limit"])
@pytest.mark.parametrize("search", [way for way in WAYS if way[1] == "prefork"], indirect=True, ids=ids)
def test_of_a_batch_that_takes_too_long_only_the_slow_event_has_failed(search: Search, limit: str) -> None:
    search.start(**{limit: 2.0})

    search.publish(5, seconds={3: 30.0})

    eventually(search.app.dead_letters.find, 2 * DEADLINE, reason="a dead letter")
    search.wait_until_done([0, 1, 2, 4])
    (letter,) = search.app.dead_letters.find()
    assert (letter.subject, letter.attempts) == ("B-3", 2), (letter, search.notes("calls"))


# -- async def ---------------------------------------------------------------------------------------------------------

#: Ways of an `async def` handler.
ASYNC = [("redis", "solo", True), ("redis", "threads", True), ("rabbitmq", "threads", True), ("redis", "prefork", True)]
async_ways = pytest.mark.parametrize("search", ASYNC, indirect=True, ids=ids)
async_threads = pytest.mark.parametrize("search", [way for way in ASYNC if way[1] == "threads"], indirect=True, ids=ids)


@async_ways
def test_a_coroutine_handles_events_in_batches_and_only_the_event_that_fails_is_a_dead_letter(search: Search) -> None:
    search.start(coroutine=True)

    search.publish(25, fails={7: True})

    search.wait_until_done([number for number in range(25) if number != 7])
    eventually(search.app.dead_letters.find, reason="a dead letter")
    (letter,) = search.app.dead_letters.find()
    assert (letter.subject, letter.attempts, letter.reason) == ("B-7", 2, Reason.EXHAUSTED)


@async_threads
def test_any_event_of_a_batch_of_a_coroutine_can_be_ended_and_the_others_run_again(search: Search) -> None:
    search.start(coroutine=True, size=5, wait=60)  # all five in one batch, however slow this machine is
    search.publish(5, waits={1: True})
    eventually(lambda: _listed(search, "active") == 5, reason="five active runs")
    active = [one for some in _inspect(search, "active").values() for one in some]
    (ended,) = [one["id"] for one in active if "B-3" in str(one)]

    search.app.control.revoke(ended, terminate=True)

    eventually(search.app.dead_letters.find, reason="a dead letter")
    search.open()
    search.wait_until_done([0, 1, 2, 4])
    (letter,) = search.app.dead_letters.find()
    assert (letter.subject, letter.reason) == ("B-3", Reason.REVOKED)
    assert "by `celery control`" in letter.error


@pytest.mark.parametrize("limit", ["soft_time_limit", "time_limit"])
@async_threads
def test_of_a_batch_of_a_coroutine_only_the_event_that_takes_too_long_has_failed(search: Search, limit: str) -> None:
    search.start(coroutine=True, **{limit: 1.0})

    search.publish(5, seconds={3: 30.0})

    eventually(search.app.dead_letters.find, 2 * DEADLINE, reason="a dead letter")
    search.wait_until_done([0, 1, 2, 4])
    (letter,) = search.app.dead_letters.find()
    assert (letter.subject, letter.attempts) == ("B-3", 2), (letter, search.notes("calls"))


def _inspect(search: Search, what: str) -> dict[str, list[Any]]:
    return getattr(search.app.control.inspect(timeout=5, limit=1), what)() or {}


def _listed(search: Search, what: str) -> int:
    """How many runs of the batch handler a worker lists."""
    return sum(one["name"] == "payment.index" for some in _inspect(search, what).values() for one in some)
