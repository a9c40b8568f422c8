"""What the stores answer about bindings: who is alive decides what is stale."""

import time
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path

import pytest

from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.store import Listening, Store, Terms
from choreo.store.memory import MemoryStore
from choreo.store.redis import RedisStore
from choreo.worker.namesakes import are_apart, program_of, warn_of_namesakes
from tests.contract.test_store_presence import worker
from tests.unit.events import OrderPlaced
from tests.unit.stage import service
from tests.waiting import eventually

OLD = [("payment.charge", "order.placed"), ("payment.charge", "order.*"), ("payment.refund", "order.cancelled")]
NEW = [("payment.charge", "order.placed"), ("payment.report", "order.placed")]
LONG = 60.0


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, namespace: str) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore(Terms(), clock=time.monotonic)
    else:
        yield RedisStore(request.getfixturevalue("redis_url"), Terms(), prefix=namespace)


def test_nothing_is_stale_at_the_first_start(store: Store) -> None:
    answer = store.declare("payment", "one", OLD, LONG)

    assert (answer.known, list(answer.stale)) == (False, [])
    assert store.declare("payment", "one", OLD, LONG).known


def test_what_the_next_version_does_not_declare_is_stale(store: Store) -> None:
    store.declare("payment", "old", OLD, LONG)
    store.declare("payment", "old", (), 0)

    answer = store.declare("payment", "new", NEW, LONG)

    assert list(answer.stale) == [("payment.charge", "order.*"), ("payment.refund", "order.cancelled")]


def test_nothing_of_a_live_worker_is_stale_whichever_version_it_is(store: Store) -> None:
    store.declare("payment", "old", OLD, LONG)
    new = store.declare("payment", "new", NEW, LONG)
    old = store.declare("payment", "old", OLD, LONG)

    assert [list(answer.stale) for answer in (new, old)] == [[], []]


def test_a_worker_that_fell_silent_counts_no_more(store: Store) -> None:
    store.declare("payment", "old", OLD, 0.2)

    assert eventually(lambda: len(store.declare("payment", "new", NEW, LONG).stale)) == 2
    assert not store.declare("payment", "old", OLD, LONG).known


def test_what_was_removed_is_forgotten_unless_somebody_declared_it_meanwhile(store: Store) -> None:
    store.declare("payment", "old", OLD, LONG)
    store.declare("payment", "old", (), 0)
    stale = store.declare("payment", "new", NEW, LONG).stale

    store.declare("payment", "third", [("payment.charge", "order.*")], LONG)
    answer = store.declare("payment", "new", NEW, LONG, removed=stale)

    assert list(answer.to_restore) == [("payment.charge", "order.*")]
    assert list(answer.stale) == []
    store.declare("payment", "third", (), 0)
    assert list(store.declare("payment", "new", NEW, LONG).stale) == [("payment.charge", "order.*")]


def test_events_reach_a_queue_until_its_bindings_are_removed_whether_a_worker_lives_or_not(store: Store) -> None:
    assert store.listening("payment") is None
    store.declare("payment", "old", OLD, LONG)
    store.declare("payment", "old", (), 0)

    stopped = store.listening("payment")
    assert stopped == Listening(frozenset(OLD))
    assert stopped.queues == {"payment.charge", "payment.refund"}

    stale = store.declare("payment", "new", NEW, LONG).stale
    assert store.listening("payment").queues == {"payment.charge", "payment.refund", "payment.report"}
    store.declare("payment", "new", NEW, LONG, removed=stale)

    found = store.listening("payment")
    assert found == Listening(frozenset(NEW), [frozenset({"payment.charge", "payment.report"})])


def test_a_service_without_a_handler_that_was_seen_once_is_told_from_one_that_was_never_seen(store: Store) -> None:
    store.declare("payment", "old", OLD, LONG)
    store.declare("payment", "old", (), 0)
    store.declare("payment", "new", (), LONG, removed=OLD)
    store.declare("payment", "new", (), 0)

    assert store.listening("payment") == Listening(frozenset())
    assert store.listening("driver") is None


def test_services_do_not_see_each_other(store: Store) -> None:
    store.declare("payment", "one", OLD, LONG)
    store.declare("payment", "one", (), 0)

    assert list(store.declare("loyalty", "one", [("loyalty.award", "payment.charged")], LONG).stale) == []


def test_the_live_workers_are_listed_with_what_they_declare(store: Store) -> None:
    store.declare("payment", "old host /srv/a.py", OLD, LONG)
    store.declare("payment", "new", NEW, LONG)
    store.declare("payment", "gone", NEW, LONG)
    store.declare("payment", "gone", (), 0)
    store.declare("payment", "silent", NEW, 0.001)
    store.declare("loyalty", "other", NEW, LONG)

    def found() -> dict[str, set[tuple[str, str]]]:
        return {worker: set(bindings) for worker, bindings in store.declared("payment").items()}

    assert eventually(lambda: len(found()) == 2)
    assert found() == {"old host /srv/a.py": set(OLD), "new": set(NEW)}


class TestNamesakes:
    def test_a_worker_that_declares_something_else_is_named_with_the_difference_and_the_way_out(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.declare("payment", "payment@a/1 /srv/a/payment.py", OLD, LONG)

        warn_of_namesakes("payment@b/2 /srv/b/payment.py", NEW, ServiceDescription("payment"), store)

        (record,) = caplog.records
        text = record.getMessage()
        assert record.levelname == "WARNING"
        assert "payment@a/1 /srv/a/payment.py declares payment.charge (order.*), payment.refund" in text
        assert "payment@b/2 /srv/b/payment.py, declares payment.report (order.placed)" in text
        assert "Service('payment_2')" in text

    def test_the_same_program_is_no_namesake(self, store: Store, caplog: pytest.LogCaptureFixture) -> None:
        store.declare("payment", "one", OLD, LONG)
        store.declare("payment", "two", NEW, 0.001)
        eventually(lambda: len(store.declared("payment")) == 1)

        warn_of_namesakes("three", OLD, ServiceDescription("payment"), store)
        warn_of_namesakes("other", NEW, ServiceDescription("loyalty"), store)

        assert caplog.text == ""

    def test_a_handler_that_the_other_declares_in_another_way_is_named_with_its_version(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        charge = HandlerDescription("payment.charge", ("order.placed",))
        joined = HandlerDescription("payment.charge", ("order.placed",), join={"parts": ["order.placed"]})
        reading = HandlerDescription("payment.charge", ("order.placed",), reads={"order.placed": ("total_cents",)})
        store.declare("payment", "one", OLD, LONG)
        theirs = ServiceDescription("payment", (charge,))
        store.report("payment", worker("one", digest=theirs.digest, version="1.4.1"), theirs.to_json(), LONG)

        warn_of_namesakes("two", OLD, ServiceDescription("payment", (reading,)), store)
        assert caplog.text == ""

        warn_of_namesakes("two", OLD, ServiceDescription("payment", (joined,)), store)
        assert "one (version 1.4.1) declares" in caplog.text
        assert "They declare payment.charge in different ways." in caplog.text

    def test_a_description_that_cannot_be_read_is_no_reason_to_warn(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.declare("payment", "one", OLD, LONG)
        store.report("payment", worker("one", digest="d"), "no JSON", LONG)

        warn_of_namesakes("two", OLD, ServiceDescription("payment"), store)

        assert caplog.text == ""

    def test_another_program_with_the_same_bindings_is_named(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.declare("payment", "payment@a/1 /srv/shop/payment.py 11111111", OLD, LONG)

        warn_of_namesakes(
            "payment@b/2 /home/alice/billing/tasks.py 22222222", OLD, ServiceDescription("payment"), store
        )

        text = caplog.records[0].getMessage()
        assert "payment@a/1 /srv/shop/payment.py 11111111 declares the same handlers, with other code" in text
        assert "Service('payment_2')" in text

    @pytest.mark.parametrize(
        "other",
        [
            "payment@b/2 /home/alice/billing/tasks.py 11111111",  # the same code
            "payment@b/2 /srv/releases/41/shop/payment.py 22222222",  # a version in the same place
            "payment@b/2 /srv/releases/42/shop/payment.py 22222222",  # a version in a place of its own
            "payment@b/2 /home/alice/billing/tasks.py",  # of an older choreo
            "payment@b/2",
        ],
    )
    def test_the_same_code_elsewhere_and_another_version_of_it_are_no_other_program(self, other: str) -> None:
        assert not are_apart("payment@a/1 /srv/releases/41/shop/payment.py 11111111", other)

    def test_a_program_is_named_by_the_file_of_its_handlers_and_their_code(self) -> None:
        app = service("payment")
        assert app.runtime.file.endswith("stage.py"), "the file that makes the service"

        @app.on(OrderPlaced)
        def charge(order: OrderPlaced) -> None: ...

        assert app.runtime.file == __file__
        assert app.runtime.program("payment@here").name.endswith(f" {__file__}")
        file, _, code = program_of(app.subscriptions).rpartition(" ")
        assert (file, code) == (__file__, sha1(Path(__file__).read_bytes()).hexdigest()[:8])
