"""Bundles of runs in a child of the prefork pool: with real workers, whose children are killed and held up."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from choreo import Reason, Service
from choreo.events.ids import task_id
from tests.integration.bundles_app import OrderPlaced, PaymentCharged
from tests.nursery import start_worker
from tests.waiting import eventually

#: Events of a backlog, and the one in its midst that is unlike the others. Before it the worker learns how quick the
#: handler is.
COUNT, ODD = 400, 200


class Payment:
    """The service, its queues and its worker, seen from outside."""

    def __init__(self, url: str, namespace: str, log: Path) -> None:
        self.url, self.namespace, self._log = url, namespace, log
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True)
        self.app = Service("payment", broker=url, config={"choreo_namespace": namespace}, set_as_current=False)
        self.app.on(OrderPlaced, name="charge")(_unused)
        self.app.on(PaymentCharged, name="record")(_unused_too)
        self.worker: Any = None
        with self.app.connection_for_write() as connection:
            for queue in self.app.amqp.queues.values():
                queue(connection.default_channel).declare()

    def place(self, does: str = "") -> str:
        """Publish a backlog. Returns the task id of the odd event's run."""
        self.app.publish_many(OrderPlaced(number=number) for number in range(ODD))
        odd = self.app.publish(OrderPlaced(number=ODD, does=does))
        self.app.publish_many(OrderPlaced(number=number) for number in range(ODD + 1, COUNT))
        return self.task_of(odd)

    def task_of(self, announced: Any) -> str:
        return task_id(announced.identity, "payment.charge")

    def start(self, concurrency: int, *options: str) -> None:
        settings = {"choreo_namespace": self.namespace, "worker_prefetch_multiplier": 64}
        environment = {"CHOREO_TEST_SETTINGS": json.dumps(settings), "CHOREO_TEST_BROKER": self.url}
        arguments = ["-l", "WARNING", "-c", str(concurrency), "--without-mingle", "--without-gossip", *options]
        self.worker = start_worker(
            "tests.integration.bundles_app", *arguments, log=self._log, environment=os.environ | environment
        )

    def noted(self, what: str) -> list[int]:
        notes = map(json.loads, self.redis.lrange(f"{self.namespace}:notes", 0, -1))
        return [number for kind, number in notes if kind == what]

    def open(self) -> None:
        self.redis.set(f"{self.namespace}:open", 1)

    def inspect(self, what: str) -> list[Any]:
        answers = getattr(self.app.control.inspect(timeout=2), what)() or {}
        return [one for answer in answers.values() for one in answer]

    def letters(self) -> list[Any]:
        return list(self.app.dead_letters.find("payment"))

    def in_flight(self) -> int:
        return sum(self.redis.hlen(key) for key in self.redis.scan_iter(f"*{self.namespace}*inflight*"))

    def close(self) -> None:
        self.open()
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
        self.redis.close()


def _unused(order: OrderPlaced) -> None: ...


def _unused_too(charged: PaymentCharged) -> None: ...


@pytest.fixture
def payment(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    payment = Payment(redis_url, namespace, tmp_path / "worker.log")
    yield payment
    payment.close()


def others() -> list[int]:
    return [number for number in range(COUNT) if number != ODD]


def test_a_child_gets_several_quick_events_at_once_and_each_is_handled_once(payment: Payment):
    payment.place()

    payment.start(2)

    eventually(lambda: len(payment.noted("recorded")) >= COUNT)
    assert sorted(payment.noted("recorded")) == sorted(payment.noted("done")) == list(range(COUNT))
    (stats,) = (payment.app.control.inspect(timeout=2).stats() or {}).values()
    assert stats["pool"]["writes"]["total"] <= 2 * COUNT  # on a busy machine no handler is quick
    assert stats["total"] == {"payment.charge": COUNT, "payment.record": COUNT}


def test_a_killed_child_loses_no_event_of_its_bundle_and_only_the_begun_one_counts(payment: Payment):
    payment.place("kills")

    payment.start(2)

    eventually(lambda: payment.letters())
    eventually(lambda: set(payment.noted("recorded")) == set(others()))
    (letter,) = payment.letters()
    assert (letter.reason, letter.envelopes[0].data["number"]) == (Reason.POISON, ODD)
    assert Counter(payment.noted("begun"))[ODD] == 3
    # Those before it in a bundle may have waited to be committed when their child was killed.
    assert sum(count - 1 for count in Counter(payment.noted("done")).values()) <= 3 * 15
    # Each effect once, however often it ran.
    assert sorted(payment.noted("recorded")) == others()


def test_a_handler_that_ends_its_process_does_not_take_its_bundle_along(payment: Payment):
    payment.place("exits")

    payment.start(2)

    eventually(lambda: payment.letters())
    eventually(lambda: len(payment.noted("recorded")) >= COUNT - 1)
    assert sorted(payment.noted("recorded")) == others()


def test_a_failed_run_becomes_a_dead_letter_and_the_others_of_its_bundle_are_done(payment: Payment):
    payment.place("fails")

    payment.start(2)

    eventually(lambda: payment.letters())
    eventually(lambda: len(payment.noted("recorded")) >= COUNT - 1)
    (letter,) = payment.letters()
    assert (letter.error, letter.envelopes[0].data["number"]) == ("ValueError: no money", ODD)
    assert sorted(payment.noted("recorded")) == others()


def test_no_event_waits_behind_a_slow_one_of_its_bundle_while_another_child_is_free(payment: Payment):
    payment.place("waits")

    payment.start(2)

    eventually(lambda: len(payment.noted("recorded")) >= COUNT - 1)
    assert sorted(payment.noted("recorded")) == others()
    payment.open()
    eventually(lambda: len(payment.noted("recorded")) == COUNT)


def test_the_run_in_hand_is_shown_as_active_and_can_be_terminated_alone(payment: Payment):
    slow = payment.place("waits")
    payment.start(2)
    eventually(lambda: len(payment.noted("recorded")) >= COUNT - 1)

    assert [one["id"] for one in payment.inspect("active")] == [slow]
    payment.app.control.terminate(slow)

    eventually(lambda: payment.letters())
    (letter,) = payment.letters()
    assert (letter.reason, letter.envelopes[0].data["number"]) == (Reason.REVOKED, ODD)
    assert sorted(payment.noted("recorded")) == others()


def test_a_run_that_waits_behind_the_one_in_hand_is_revoked_without_ending_that(payment: Payment):
    payment.start(1)
    payment.app.publish(OrderPlaced(number=0, does="waits"))
    eventually(lambda: payment.noted("begun"))
    late = payment.task_of(payment.app.publish(OrderPlaced(number=1)))
    eventually(lambda: late in [one["id"] for one in payment.inspect("reserved")])

    payment.app.control.terminate(late)
    eventually(lambda: late in payment.inspect("revoked"))
    payment.open()

    eventually(lambda: payment.letters())
    (letter,) = payment.letters()
    assert (letter.reason, letter.envelopes[0].data["number"]) == (Reason.REVOKED, 1)
    eventually(lambda: payment.noted("recorded") == [0])
    assert payment.noted("begun") == [0]


def test_a_child_with_a_limited_number_of_tasks_gets_one_at_a_time(payment: Payment):
    payment.place()

    payment.start(2, "--max-tasks-per-child", "50")

    eventually(lambda: len(payment.noted("recorded")) >= COUNT)
    assert sorted(payment.noted("recorded")) == list(range(COUNT))
    (stats,) = (payment.app.control.inspect(timeout=2).stats() or {}).values()
    assert stats["pool"]["writes"]["total"] >= 2 * COUNT


def test_a_stopping_worker_gives_back_what_its_children_have_not_begun(payment: Payment):
    payment.place("waits")
    payment.start(1)
    eventually(lambda: ODD in payment.noted("begun"))
    payment.app.publish_many([OrderPlaced(number=COUNT + number) for number in range(20)])

    payment.worker.terminate()
    waiting = f"{payment.namespace}.payment.charge"
    eventually(lambda: payment.redis.llen(waiting) >= 20)
    payment.open()
    payment.worker.wait()
    payment.worker = None
    payment.start(2)

    eventually(lambda: len(payment.noted("recorded")) >= COUNT + 20)
    assert sorted(payment.noted("recorded")) == list(range(COUNT + 20))
