"""Queues and bindings on real brokers: planned, made before any worker starts, and retired with nothing lost."""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from kombu import Queue

from choreo import DeadLetter, Service, TopologyError
from choreo.cli.topology import wanted
from choreo.delivery.dead_letter import Reason
from choreo.events.message import Message
from choreo.operate.retirement import Left
from choreo.operate.topology import Plan, ServicePlan
from choreo.store.claims import Claim, Verdict
from choreo.store.joins import Arrival
from choreo.store.parts import packed
from choreo.store.schedule import Scheduled
from tests.commands import environment, run  # noqa: F401 - the fixture is for every test here
from tests.ending import with_this_process
from tests.servers import rabbitmq_vhost, require_rabbitmq
from tests.unit.events import OrderPlaced, PaymentFailed
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
OLD, NEW = "payment.refund", "payment.repay"
#: Retires a handler, message by message, in a process that a test can kill.
PROGRAM = """
import json, sys, time
from choreo import Service
from choreo.operate.leftovers import Leftovers
settle = Leftovers._settled
Leftovers._settled = lambda *args: time.sleep(0.02) or settle(*args)
settings, broker, options = map(json.loads, sys.argv[1:])
app = Service("command_line", broker=broker, config=settings)
for left in app.runtime.retirements.retire("payment.refund", **options):
    print(left.moved, flush=True)
"""


class Land:
    """A broker, a store, and the services on it, of which no worker runs."""

    def __init__(self, broker: str, store: str, namespace: str) -> None:
        self.broker, self.namespace = broker, namespace
        # What a killed process had in hand comes back soon.
        options = {} if broker.startswith("amqp") else {"consumer_timeout": 2.0}
        self.settings: dict[str, Any] = {
            "choreo_store_url": store,
            "choreo_namespace": namespace,
            "broker_transport_options": options,
        }
        self.app = self.service()
        self.store = self.app.runtime.store

    def service(self, *handlers: str, name: str = "payment") -> Service:
        """The code of a version: of these handlers, all of which listen to order.placed."""
        app = Service(name, broker=self.broker, config=dict(self.settings), set_as_current=False)

        def handle(order: OrderPlaced) -> None: ...

        for handler in handlers:
            app.on(OrderPlaced, name=handler.partition(".")[2])(handle)
        return app

    def apply(self, *handlers: str, **options: Any) -> ServicePlan:
        (made,) = self.app.runtime.topologies.apply(wanted(self.service(*handlers)), **options).services
        return made

    def plan(self, *handlers: str) -> ServicePlan:
        (planned,) = self.whole_plan(*handlers).services
        return planned

    def whole_plan(self, *handlers: str) -> Plan:
        return self.app.runtime.topologies.plan(wanted(self.service(*handlers)))

    def queue(self, handler: str) -> str:
        return self.app.runtime.queue_of(handler)

    def waiting(self, handler: str) -> int | None:
        """How many messages wait for a handler; None if RabbitMQ has no such queue."""
        return self.app.runtime.waiting_in([self.queue(handler)]).get(self.queue(handler))

    def publish(self, count: int = 1) -> None:
        for number in range(count):
            self.app.publish(OrderPlaced(customer_id="alice"), f"ORD-{number}")

    def orphan(self, *others: str, count: int = 0) -> None:
        """The old handler, of which no worker lives any more, beside others; with so many messages in its queue."""
        self.apply(OLD, *others)
        self.publish(count)
        self.apply(*others)

    def retire(self, **options: Any) -> Left:
        *_, left = self.app.runtime.retirements.retire(OLD, **options)
        return left

    def letters(self) -> list[DeadLetter]:
        return list(self.app.dead_letters)

    def scheduled(self, handler: str) -> list[str]:
        return [entry.id for entry in self.store.entries(handler, 1000)]

    def close(self) -> None:
        with self.app.connection_for_write() as connection:
            for name in self.store.handlers():
                Queue(self.queue(name), channel=connection).delete()
        self.app.publisher.close()


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[str]:
    """A vhost for all tests of this file: each has a namespace of its own."""
    with rabbitmq_vhost(require_rabbitmq()) as url:
        yield url


@pytest.fixture(params=["redis", "rabbitmq"])
def land(request: pytest.FixtureRequest, redis_url: str, namespace: str) -> Iterator[Land]:
    broker = redis_url if request.param == "redis" else request.getfixturevalue("rabbitmq")
    land = Land(broker, redis_url, namespace)
    yield land
    land.close()


def test_what_is_applied_keeps_the_events_that_come_before_the_first_worker(land: Land) -> None:
    before = land.plan(OLD)
    assert (land.queue(OLD) in before.create, list(before.bind)) == (True, [(land.queue(OLD), "order.placed")])
    land.publish()

    made = land.apply(OLD)

    assert made == before
    assert land.plan(OLD).changes == 0
    land.publish(2)
    assert land.waiting(OLD) == 2
    assert land.plan(OLD).waiting[land.queue(OLD)] == 2
    # Again, and nothing changes.
    assert land.apply(OLD).changes == 0
    assert land.waiting(OLD) == 2
    (repair,) = land.app.repairs.recent()
    assert (repair.action, repair.target, repair.count) == ("applied", "payment", before.changes)


def test_an_application_that_was_interrupted_is_not_taken_for_done(land: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise ConnectionError("it is gone")

    with monkeypatch.context() as patched:
        patched.setattr(land.app.runtime.topologies._broker, "declare", die)
        with pytest.raises(TopologyError, match=r"The broker did not do its part: it is gone"):
            land.apply(OLD)

    assert land.plan(OLD).changes > 0
    land.apply(OLD)
    assert land.plan(OLD).changes == 0


def test_workers_of_the_old_code_leave_what_is_applied_alone(land: Land) -> None:
    land.store.declare("payment", "old", [(land.queue(OLD), "order.placed")], 60)
    land.apply(OLD)
    land.store.declare("payment", "old", [(land.queue(OLD), "order.placed")], 60)

    land.apply(NEW)

    assert land.store.declare("payment", "old", [(land.queue(OLD), "order.placed")], 60).stale == []
    (orphan,) = land.plan(NEW).orphans
    assert (orphan.handler, list(orphan.workers), orphan.waiting) == (OLD, ["old"], 0)
    (stale,) = land.plan(NEW).unbind
    assert (stale.queue, list(stale.workers)) == (land.queue(OLD), ["old"])


def test_the_plan_counts_what_waits_for_a_handler_that_is_gone(land: Land) -> None:
    land.orphan(NEW, count=3)
    land.store.add_letter(OLD, "l-1", "{}")

    (orphan,) = land.plan(NEW).orphans

    assert (orphan.handler, orphan.waiting, orphan.dead_letters) == (OLD, 3, 1)
    assert json.loads(land.whole_plan(NEW).to_json())["services"][0]["orphans"][0]["waiting"] == 3
    assert land.plan(NEW).changes == 0


def test_a_handler_of_which_nothing_is_left_is_retired(land: Land) -> None:
    land.orphan(NEW)

    left = land.retire(reason="it is repay now")

    assert (left.is_deleted, left.is_forgotten) == (True, True)
    assert OLD not in land.store.handlers()
    land.publish()
    assert not land.waiting(OLD)
    assert land.waiting(NEW) == 1
    assert land.plan(NEW).orphans == []
    repair = land.app.repairs.recent(1)[0]
    assert (repair.action, repair.target, repair.reason) == ("retired", OLD, "it is repay now")
    with pytest.raises(TopologyError, match=r"payment.refund is retired already, by .*: it is repay now"):
        land.retire()


def test_a_handler_is_unbound_and_kept_while_something_waits_that_nobody_takes(land: Land) -> None:
    land.orphan(NEW, count=2)

    with pytest.raises(TopologyError, match=r"payment.refund still has 2 messages, and no worker that declares"):
        land.retire()

    land.publish()
    assert land.waiting(OLD) == 2
    assert land.waiting(NEW) == 3


def test_a_handler_that_a_worker_declares_is_not_touched(land: Land) -> None:
    land.apply(OLD, NEW)
    land.apply(NEW)
    land.store.declare("payment", "old@host", [(land.queue(OLD), "order.placed")], 60)

    with pytest.raises(TopologyError, match=r"payment.refund is declared by old@host. Deploy a version without it"):
        land.retire(to_dead_letters=True)

    land.publish()
    assert land.waiting(OLD) == 1
    assert land.store.retirements("payment") == []


def test_a_handler_that_was_applied_for_workers_to_come_is_not_retired(land: Land) -> None:
    land.apply(OLD)

    with pytest.raises(TopologyError, match=r"was made by `choreo topology apply` a while ago"):
        land.retire()


def test_what_waits_becomes_dead_letters_that_can_be_replayed_to_another_handler(land: Land) -> None:
    land.orphan(NEW, count=3)
    # A copy of the same event is in the queue as well: it makes no second letter.
    again = land.app.publish(OrderPlaced(customer_id="bob"), "ORD-9")
    retry = Message.carrying(again, exchange="", routing_key=land.queue(OLD))
    land.store.schedule(OLD, Scheduled("retry:1", retry, 3600))

    left = land.retire(to_dead_letters=True, reason="it is repay now")

    assert (left.moved, left.dead_letters, left.is_deleted, left.is_forgotten) == (5, 4, True, False)
    letters = land.letters()
    assert sorted(letter.subject for letter in letters) == ["ORD-0", "ORD-1", "ORD-2", "ORD-9"]
    assert {letter.reason for letter in letters} == {Reason.UNDECLARED}
    assert {letter.service for letter in letters} == {"payment"}
    assert "was retired by" in letters[0].error
    assert letters[0].error.endswith("it is repay now")
    for letter in letters:
        land.app.dead_letters.replay(letter.id, NEW)
    # Their notices leave as soon as a worker of the service runs.
    land.store.sent(OLD, land.scheduled(OLD))
    assert land.retire().is_forgotten
    assert OLD not in land.store.handlers()


def test_what_waits_goes_to_another_handler_once_each(land: Land) -> None:
    land.orphan(NEW, count=3)

    left = land.retire(to=NEW)

    assert (left.moved, left.is_forgotten, land.letters()) == (3, True, [])
    assert len(land.scheduled(NEW)) == 3


def test_what_the_handler_may_not_trust_goes_to_no_other_one(land: Land) -> None:
    land.apply(OLD, NEW)
    land.publish()  # by a program without a key
    land.settings["choreo_signing_keys"] = {"2026": "k" * 32}
    signed = land.service()
    signed.publish(OrderPlaced(customer_id="bob"), "ORD-9")
    land.apply(NEW)

    with pytest.raises(TopologyError, match="has 1 dead letter"):
        list(signed.runtime.retirements.retire(OLD, to=NEW))

    (forged,) = land.letters()
    assert (forged.subject, forged.reason) == ("ORD-0", Reason.UNTRUSTED)
    assert len(land.scheduled(NEW)) == 1
    signed.publisher.close()


def pending_join(land: Land, subject: str, **described: Any) -> None:
    """The old handler is a join, and has one of its two parts. ``described`` makes something else of it."""
    description = {"parts": ["order.placed", "payment.charged"], "unless": [], **described}
    land.store.describe_joins({OLD: json.dumps(description)})
    part = land.app.publish(OrderPlaced(customer_id="bob"), subject)
    needs = {"order.placed": None, "payment.charged": None}
    arrival = Arrival("order.placed", "order.placed", packed(part), needs, 2, 3600)
    assert land.store.arrive(Claim(OLD, f"join:{subject}", "A"), arrival).verdict is Verdict.WAIT


@pytest.mark.parametrize(
    "described", [{}, {"undo": {"effects": ["order.placed"], "failures": ["payment.failed"]}}], ids=["join", "undo"]
)
def test_a_pending_join_becomes_a_dead_letter_with_its_parts(land: Land, described: dict[str, Any]) -> None:
    land.orphan(NEW)
    pending_join(land, "ORD-5", **described)
    with pytest.raises(TopologyError, match=r"1 pending join"):
        land.retire()

    left = land.retire(to_dead_letters=True)

    assert (left.is_deleted, left.joins) == (True, 0)
    assert land.store.pending(OLD, 10)[0] == []
    joined = [letter for letter in land.letters() if letter.unit == "join:ORD-5"]
    assert [[event.subject for event in letter.envelopes] for letter in joined] == [["ORD-5"]]


def test_a_pending_story_only_watches_and_is_forgotten(land: Land) -> None:
    land.orphan(NEW)
    pending_join(land, "ORD-5", story={})

    land.retire(to_dead_letters=True)

    assert land.store.pending(OLD, 10)[0] == []
    assert "join:ORD-5" not in [letter.unit for letter in land.letters()]


def test_the_parts_of_a_pending_join_go_to_another_handler(land: Land) -> None:
    land.orphan(NEW)
    pending_join(land, "ORD-5")

    assert land.retire(to=NEW).is_forgotten

    (entry,) = land.scheduled(NEW)
    assert entry.startswith(f"redirect:{OLD}:")


def test_what_another_handler_does_not_listen_to_stays(land: Land) -> None:
    land.orphan(NEW, count=1)
    failed = land.app.publish(PaymentFailed(), "ORD-7")
    land.app.publisher.send([Message.carrying(failed, exchange="", routing_key=land.queue(OLD))])

    with pytest.raises(TopologyError, match=r"does not listen to payment.failed.* Left: 1 message"):
        land.retire(to=NEW)

    assert eventually(lambda: land.waiting(OLD)) == 1
    assert land.retire(to_dead_letters=True).dead_letters == 1
    with pytest.raises(TopologyError, match=r"'payment.nobody' is no other handler"):
        land.retire(to="payment.nobody")


def test_dead_letters_keep_a_handler_from_being_retired(land: Land) -> None:
    land.orphan(NEW)
    land.store.add_letter(OLD, "l-1", "{}")

    with pytest.raises(TopologyError, match=r"payment.refund has 1 dead letter. Send them to another handler"):
        land.retire()

    land.store.discard(OLD, "l-1")
    assert land.retire().is_forgotten


def test_a_worker_that_starts_meanwhile_calls_the_handler_back(land: Land) -> None:
    land.orphan(NEW, count=1)
    land.store.declare("payment", "old", [(land.queue(OLD), "order.placed")], 60)
    steps = land.app.runtime.retirements.retire(OLD, drain=True)
    (first,) = islice(steps, 1)
    assert (first.waiting, list(first.owners)) == (1, ["old"])

    land.store.declare("payment", "again", [(land.queue(OLD), "order.placed")], 60)

    with pytest.raises(TopologyError, match=r"payment.refund was called back by (old|again), (old|again): a worker"):
        list(steps)
    assert land.waiting(OLD) == 1


@pytest.mark.parametrize("options", [{"to_dead_letters": True}, {"to": NEW}], ids=["dead letters", "redirected"])
def test_killed_at_any_moment_a_second_one_goes_on_and_nothing_is_lost_or_moved_twice(
    land: Land, options: dict[str, Any]
) -> None:
    land.orphan(NEW, count=200)

    def moved() -> int:
        return len(land.scheduled(NEW)) if "to" in options else land.store.letter_count(OLD)

    arguments = map(json.dumps, [land.settings, land.broker, options])
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, preexec_fn=with_this_process, stdout=subprocess.PIPE
    ) as process:
        eventually(lambda: moved() > 20)
        process.kill()
    assert 20 < moved() < 200

    left = land.retire(**options)

    assert left.is_deleted
    assert moved() == 200
    assert not land.waiting(OLD)
    if "to" not in options:
        assert len({letter.subject for letter in land.letters()}) == 200


# -- the commands ------------------------------------------------------------------------------------------------------


def command(land: Land, *arguments: str, code: int) -> str:
    place = ["--broker", land.broker, "--store", land.settings["choreo_store_url"], "--namespace", land.namespace]
    return run("topology", *arguments, *place, code=code).output


def test_a_command_retires_a_handler_and_says_what_became_of_it(land: Land) -> None:
    land.orphan(NEW, count=2)
    assert "payment.refund (2 messages left)? [y/N]" in command(land, "retire", OLD, code=1)
    assert land.waiting(OLD) == 2
    refused = command(land, "retire", OLD, "--yes", code=1)
    assert "payment.refund still has 2 messages" in refused
    assert "exclude each other" in command(land, "retire", OLD, "--move-to-dead-letters", "--redirect-to", NEW, code=2)

    said = command(land, "retire", OLD, "--redirect-to", NEW, "--yes", code=0)

    assert said == (
        "payment.refund is retired: its queue is deleted, and nothing of it is kept. 2 went to payment.repay.\n"
    )
    assert "is retired already" in command(land, "retire", OLD, "--yes", code=1)
    assert "No handler named 'payment.repey' is known. Did you mean payment.repay?" in command(
        land, "retire", "payment.repey", code=1
    )
    assert "payment.repay is not being retired" in command(land, "retire", NEW, "--cancel", code=1)


def test_a_command_says_that_failures_which_an_undo_remembers_go_nowhere(land: Land) -> None:
    land.orphan(NEW)
    pending_join(land, "ORD-5", undo={"effects": ["order.placed"], "failures": ["payment.failed"]})

    said = command(land, "retire", OLD, "--redirect-to", NEW, "--yes", code=0)

    assert "went to payment.repay" in said
    assert "Failures whose effects had not come yet are not moved" in said
    assert "is not undone by payment.refund, nor by payment.repay" in said


def test_a_command_prints_the_rights_of_each_service_in_lines_for_a_shell(land: Land) -> None:
    land.apply(OLD)

    said = command(land, "acl", code=0)
    (payment, operator) = map(json.loads, command(land, "acl", "--json", code=0).splitlines())

    assert (payment["user"], operator["user"]) == ("payment", "choreo_operator")
    assert f"~choreo:{land.namespace}:{{payment.*}}:*" in [*payment["broker"], *payment["store"]]
    assert bool(payment["permissions"]) == land.broker.startswith("amqp")
    assert all(len(line) <= 80 or line.startswith("  '") for line in said.splitlines()), said
    assert "No service named 'paiment' is known" in command(land, "acl", "paiment", code=1)
