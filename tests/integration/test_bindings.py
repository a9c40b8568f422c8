"""Bindings belong to declarations, on both brokers."""

import threading

import pytest
from kombu import Queue

from choreo import Event
from choreo.broker.bindings import Bindings
from choreo.errors import StoreError
from choreo.events.message import Message
from choreo.events.patterns import Binding
from choreo.store import Scheduled
from choreo.store.deployments import Step
from choreo.worker import bindings
from choreo.worker.bindings import BindingKeeper
from tests.integration.orders import OrderCancelled, OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually


class MenuChanged(Event):
    pass


class RefundPaid(Event):
    pass


def waiting(payment: Payment, handler: str) -> int:
    """How many messages wait in a handler's queue."""
    with payment.app.connection_for_read() as connection:
        queue = Queue(f"{payment.namespace}.payment.{handler}")(connection.channel())
        try:
            return int(queue.queue_declare(passive=True).message_count)
        except connection.channel_errors:
            return 0  # On Redis an empty queue is none.


def keeper_of(payment: Payment, name: str, *declared: Binding) -> BindingKeeper:
    """The keeper of a worker that declares these handlers and patterns; without any, those of the service."""
    runtime = payment.app.runtime
    patterns: dict[str, list[str]] = {} if declared else runtime.topology.patterns()
    for handler, pattern in declared:
        patterns.setdefault(runtime.queue_of(handler), []).append(pattern)
    reach = Bindings(payment.app.connection_for_write, runtime.topology.exchange)
    return BindingKeeper("payment", name, patterns, runtime.store, reach, runtime.undeclared)


def replica(payment: Payment, name: str, *declared: Binding) -> BindingKeeper:
    """What a worker that declares these does at its start, as far as bindings are concerned."""
    keeper = keeper_of(payment, name, *declared)
    keeper.look()
    with payment.app.connection_for_write() as connection:
        for handler, pattern in declared:
            queue = payment.app.runtime.queue_of(handler)
            Queue(queue, payment.app.runtime.topology.exchange, pattern)(connection.channel()).declare()
    return keeper


def heard(payment: Payment, event: Event) -> bool:
    """Whether anybody is bound to an event that is published now."""
    before = payment.app.publisher.unheard.total()
    payment.app.publish(event)
    return payment.app.publisher.unheard.total() == before


def test_a_new_version_unbinds_what_it_does_not_declare_and_reports_whose_handler_is_gone(payment: Payment) -> None:
    payment.worker(patterns="order.*+menu.*,refund.*", name="old").stop()
    payment.app.publish_many([MenuChanged(), RefundPaid(), RefundPaid()])
    assert eventually(lambda: waiting(payment, "watch_refund")) == 2

    new = payment.worker(patterns="order.*", name="new")

    # What waited for a handler that is still there is handled, and the rest of its patterns lead there.
    assert eventually(lambda: payment.noted("watched")) == [0]
    assert heard(payment, OrderCancelled())
    assert eventually(lambda: len(payment.noted("watched")) == 2)
    # The others are unbound, and what waits is kept.
    assert not heard(payment, MenuChanged())
    assert not heard(payment, RefundPaid())
    assert waiting(payment, "watch_refund") == 2
    log, queues = new.log(), f"{payment.namespace}.payment"
    assert f"unbound {queues}.watch_order from menu.*, since no worker declares it any more" in log
    assert f"unbound {queues}.watch_refund from refund.*, since no worker declares it any more" in log
    assert f"no worker declares the handler of queue {queues}.watch_refund any more" in log
    assert "Still there: 2 messages in its queue. Declare the handler again" in log
    assert "Traceback" not in log


def test_a_worker_that_consumes_one_queue_also_makes_and_binds_those_of_the_other_handlers(payment: Payment) -> None:
    payment.worker("-Q", f"{payment.namespace}.payment.watch_menu", patterns="order.*,menu.*", name="first")

    assert heard(payment, OrderPlaced(number=1))

    assert waiting(payment, "watch_order") == waiting(payment, "charge_customer") == 1
    payment.worker("-X", f"{payment.namespace}.payment.watch_menu", patterns="order.*,menu.*", name="rest")
    assert eventually(lambda: payment.noted("done")) == [1]
    assert eventually(lambda: payment.noted("watched")) == [0]


@pytest.mark.parametrize("payment", ["rabbitmq"], indirect=True)  # queues of Redis have no settings
def test_a_worker_uses_a_queue_that_it_does_not_consume_as_it_is(payment: Payment) -> None:
    with payment.app.connection_for_write() as connection:
        Queue(payment.queue, durable=True)(connection.channel()).queue_declare()

    first = payment.worker("-Q", f"{payment.namespace}.payment.watch_order", patterns="order.*", name="first")

    assert f"queue {payment.queue} exists with other settings than this version gives it" in first.log()
    payment.app.publish(OrderPlaced(number=1))
    assert waiting(payment, "charge_customer") == 1
    assert eventually(lambda: payment.noted("watched")) == [0]


def test_old_and_new_workers_side_by_side_take_nothing_from_each_other(payment: Payment) -> None:
    old = replica(payment, "old", ("payment.watch", "order.cancelled"), ("payment.watch", "order.placed"))
    new = replica(payment, "new", ("payment.watch", "order.placed"), ("payment.watch", "menu.*"))
    old.look()
    assert all([heard(payment, OrderCancelled()), heard(payment, OrderPlaced()), heard(payment, MenuChanged())])

    old.retire()
    new.look()

    assert not heard(payment, OrderCancelled())
    assert all([heard(payment, OrderPlaced()), heard(payment, MenuChanged())])


def test_an_old_worker_that_comes_back_while_its_binding_is_removed_gets_it_again(
    payment: Payment, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica(payment, "old", ("payment.watch", "order.cancelled")).retire()
    new = keeper_of(payment, "new")
    remove = new._bindings.remove

    def remove_just_after_the_old_one_has_bound(stale: list[Binding]) -> None:
        replica(payment, "old again", ("payment.watch", "order.cancelled"))
        remove(stale)

    monkeypatch.setattr(new._bindings, "remove", remove_just_after_the_old_one_has_bound)
    new.look()

    assert heard(payment, OrderCancelled())


def test_a_binding_that_was_removed_too_much_is_back_at_the_next_look_although_its_remover_had_no_store(
    payment: Payment, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica(payment, "old", ("payment.watch", "order.cancelled")).retire()
    new = keeper_of(payment, "new")
    remove, declare = new._bindings.remove, payment.app.runtime.store.declare
    back: list[BindingKeeper] = []

    def remove_just_after_the_old_one_has_bound(stale: list[Binding]) -> None:
        back.append(replica(payment, "old again", ("payment.watch", "order.cancelled")))
        remove(stale)

    def declare_unless_something_was_removed(*args: object, removed: tuple[Binding, ...] = ()) -> object:
        if removed:
            raise StoreError("it blinks")
        return declare(*args)

    monkeypatch.setattr(new._bindings, "remove", remove_just_after_the_old_one_has_bound)
    monkeypatch.setattr(payment.app.runtime.store, "declare", declare_unless_something_was_removed)
    new.look()
    assert not heard(payment, OrderCancelled())

    back[0].look()

    assert heard(payment, OrderCancelled())


def test_a_worker_that_was_silent_for_too_long_binds_again(payment: Payment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "TTL", 0.05)
    sleeper = replica(payment, "sleeper", ("payment.watch", "order.cancelled"))
    monkeypatch.setattr(bindings, "TTL", 60)
    eventually(lambda: payment.app.runtime.store.declare("payment", "somebody", (), 0).stale)
    keeper_of(payment, "new").look()
    assert not heard(payment, OrderCancelled())

    sleeper.look()

    assert heard(payment, OrderCancelled())


def test_a_worker_works_off_the_queue_of_a_handler_that_is_retired_and_binds_it_no_more(
    payment: Payment, caplog: pytest.LogCaptureFixture
) -> None:
    store, queue = payment.app.runtime.store, payment.app.runtime.queue_of("payment.watch")
    old = replica(payment, "old", ("payment.watch", "order.cancelled"), ("payment.keep", "menu.*"))
    assert store.retire("payment", queue, Step.DRAIN, "by bob").is_done

    old.look()

    assert f"the handler of queue {queue} is being retired: this worker works off what waits" in caplog.text
    assert not heard(payment, OrderCancelled())
    assert heard(payment, MenuChanged())
    # Its consumer binds everything anew when it has lost its connection.
    Bindings(payment.app.connection_for_write, payment.app.runtime.topology.exchange).make([(queue, "order.cancelled")])
    old.look()
    assert not heard(payment, OrderCancelled())
    store.retire("payment", queue, Step.CANCEL)
    old.look()
    assert heard(payment, OrderCancelled())


def test_a_worker_waits_for_the_end_of_a_deletion_and_tells_that_it_makes_the_queue_anew(
    payment: Payment, caplog: pytest.LogCaptureFixture
) -> None:
    store, queue = payment.app.runtime.store, payment.app.runtime.queue_of("payment.watch")
    replica(payment, "old", ("payment.watch", "order.cancelled")).retire()
    store.retire("payment", queue, Step.BEGIN, "by bob: gone")
    store.retire("payment", queue, Step.DELETE, seconds=60)
    timer = threading.Timer(0.7, lambda: store.retire("payment", queue, Step.END))
    timer.start()

    replica(payment, "again", ("payment.watch", "order.cancelled"))

    timer.join()
    assert f"the handler of queue {queue} was retired (by bob: gone), and this worker declares it" in caplog.text
    assert heard(payment, OrderCancelled())


def test_a_queue_that_somebody_deleted_is_no_longer_reported(
    payment: Payment, caplog: pytest.LogCaptureFixture
) -> None:
    replica(payment, "old", ("payment.watch", "order.cancelled")).retire()
    with payment.app.connection_for_write() as connection:
        Queue(payment.app.runtime.topology.name_of("payment.watch"))(connection.channel()).delete()

    keeper_of(payment, "new").look()

    assert "no worker declares the handler" not in caplog.text


def test_a_handler_that_is_gone_is_named_whenever_more_can_reach_its_empty_queue(
    payment: Payment, caplog: pytest.LogCaptureFixture
) -> None:
    store, gone = payment.app.runtime.store, "payment.watch"
    store.register([gone])
    replica(payment, "old", (gone, "order.cancelled")).retire()
    new = keeper_of(payment, "new")
    new.look()
    assert "no worker declares the handler" not in caplog.text

    for number, left in enumerate(["1 dead letter", "1 dead letter, 1 entry in its schedule"]):
        if number == 0:
            store.add_letter(gone, "l-1", "{}")
        else:
            store.schedule(gone, Scheduled("retry:1", Message("", payment.app.runtime.queue_of(gone), b"{}"), 60))
        new._report_at = 0.0
        new.look()
        new._report_at = 0.0
        new.look()
        assert caplog.text.count(f"Still there: {left}. Declare the handler again") == 1

    (found,) = payment.app.runtime.undeclared.find("payment")
    assert (found.handler, found.messages, found.letters, found.scheduled) == (gone, 0, 1, 1)
    # The handler is declared again.
    replica(payment, "again", (gone, "order.cancelled"))
    assert payment.app.runtime.undeclared.find() == []
