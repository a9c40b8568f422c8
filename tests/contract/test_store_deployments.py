"""What the stores answer of bindings that were applied, and of handlers that are retired."""

from choreo.store import Store
from choreo.store.deployments import Applied, Retirement, Step
from tests.contract.rigs import HANDLER, Rig, arrive, at, buried, claim

QUEUE = "payment.refund"
OLD = [("payment.charge", "order.placed"), (QUEUE, "order.cancelled")]
NEW = [("payment.charge", "order.placed"), ("payment.report", "order.placed")]
LONG = 60.0


def test_what_was_applied_is_not_stale_to_workers_of_another_version(rig: Rig) -> None:
    store = rig.store
    store.declare("payment", "old", OLD, LONG)

    store.apply("payment", NEW, 100.0, is_made=True)

    assert store.declare("payment", "old", OLD, LONG).stale == []
    assert store.applied("payment") == Applied(frozenset(NEW), is_made=True)
    listening = store.listening("payment")
    assert listening
    assert "payment.report" in listening.queues
    assert len(listening.workers) == 1


def test_what_was_applied_and_that_nobody_declares_in_time_is_stale(rig: Rig) -> None:
    store = rig.store
    store.apply("payment", NEW, 15.0)
    rig.pass_time(20.0)

    assert store.applied("payment") is None
    assert list(store.declare("payment", "old", OLD, LONG).stale) == [("payment.report", "order.placed")]


def test_the_last_application_of_a_service_counts(rig: Rig) -> None:
    store = rig.store
    store.apply("payment", NEW, LONG)
    store.apply("payment", OLD, LONG)

    assert list(store.declare("payment", "old", OLD, LONG).stale) == [("payment.report", "order.placed")]


def test_a_handler_that_a_live_worker_declares_is_not_retired_unless_it_is_drained(rig: Rig) -> None:
    store = rig.store
    store.declare("payment", "old", OLD, LONG)
    store.declare("payment", "its twin", OLD, LONG)

    refused = store.retire("payment", QUEUE, Step.BEGIN, "by bob")
    assert (refused.is_done, sorted(refused.owners), store.retirements("payment")) == (False, ["its twin", "old"], [])

    assert store.retire("payment", QUEUE, Step.DRAIN, "by bob").is_done
    assert store.retirements("payment") == [Retirement(QUEUE, "by bob")]
    answer = store.declare("payment", "old", OLD, LONG)
    assert (list(answer.drained), list(answer.stale)) == ([QUEUE], [(QUEUE, "order.cancelled")])
    assert not store.retire("payment", QUEUE, Step.DELETE, seconds=15.0).is_done


def test_a_handler_that_was_just_applied_is_not_retired(rig: Rig) -> None:
    rig.store.apply("payment", OLD, 15.0)

    answer = rig.store.retire("payment", QUEUE, Step.DRAIN, "by bob")

    assert (answer.is_done, answer.is_applied) == (False, True)
    rig.pass_time(20.0)
    assert rig.store.retire("payment", QUEUE, Step.BEGIN, "by bob").is_done


def test_a_worker_that_starts_calls_a_handler_back(rig: Rig) -> None:
    store = rig.store
    store.declare("payment", "old", OLD, LONG)
    store.declare("payment", "old", (), 0)
    store.retire("payment", QUEUE, Step.BEGIN, "by bob: gone")
    store.declare("payment", "retire", (), 0, removed=[(QUEUE, "order.cancelled")])

    answer = store.declare("payment", "again", OLD, LONG)

    assert list(answer.called_back) == [Retirement(QUEUE, "by bob: gone")]
    assert (list(answer.drained), list(answer.stale)) == ([], [])
    assert store.retirements("payment") == []
    assert not store.retire("payment", QUEUE, Step.DELETE, seconds=15.0).is_done


def test_a_worker_waits_while_its_queue_is_deleted_and_then_makes_it_anew(rig: Rig) -> None:
    store = rig.store
    store.declare("payment", "old", OLD, LONG)
    store.declare("payment", "old", (), 0)
    store.retire("payment", QUEUE, Step.BEGIN, "by bob")
    assert store.retire("payment", QUEUE, Step.DELETE, seconds=15.0).is_done

    assert 0 < store.declare("payment", "again", OLD, LONG).wait <= 15.0
    assert store.declared("payment") == {}

    assert store.retire("payment", QUEUE, Step.END).is_done
    listening = store.listening("payment")
    assert listening
    assert QUEUE not in listening.queues
    answer = store.declare("payment", "again", OLD, LONG)
    assert (answer.wait, list(answer.called_back)) == (0, [Retirement(QUEUE, "by bob", is_over=True)])


def test_a_deletion_that_nobody_ends_delays_no_worker_for_long(rig: Rig) -> None:
    store = rig.store
    store.retire("payment", QUEUE, Step.BEGIN, "by bob")
    store.retire("payment", QUEUE, Step.DELETE, seconds=15.0)
    rig.pass_time(20.0)

    # Redis has no clock that a test could move: there, the time of a deletion is not moved back.
    if store.declare("payment", "again", OLD, LONG).wait:
        store.retire("payment", QUEUE, Step.DELETE, seconds=-1.0)
    assert store.declare("payment", "again", OLD, LONG).wait == 0


def test_a_handler_that_is_kept_after_all_is_bound_again(rig: Rig) -> None:
    store = rig.store
    store.declare("payment", "old", OLD, LONG)
    store.retire("payment", QUEUE, Step.DRAIN, "by bob")

    assert store.retire("payment", QUEUE, Step.CANCEL).is_done

    assert not store.retire("payment", QUEUE, Step.CANCEL).is_done
    answer = store.declare("payment", "old", OLD, LONG)
    assert (list(answer.drained), list(answer.stale)) == ([], [])


def test_only_a_handler_of_which_nothing_is_left_is_forgotten(store: Store) -> None:
    store.register([HANDLER, "driver.other"])
    buried(store)
    assert not store.forget(HANDLER)
    store.discard(HANDLER, "l-1")
    store.schedule(HANDLER, at("retry:1"))
    assert not store.forget(HANDLER)
    store.sent(HANDLER, ["retry:1"])
    arrive(store, "a")
    assert not store.forget(HANDLER)
    assert store.handlers() == ["driver.assign", "driver.other"]


def test_nothing_is_kept_of_a_handler_that_is_forgotten(rig: Rig) -> None:
    store = rig.store
    store.register([HANDLER, "driver.other"])
    store.describe_joins({HANDLER: "{}"})
    for name in (HANDLER, "driver.other"):
        store.begin(claim(handler=name))
        store.count_failure(name, "x")
        store.returned(name, "x")

    assert store.forget(HANDLER)

    assert (store.handlers(), store.joins()) == (["driver.other"], {})
    assert store.returned(HANDLER, "x") == 1
    assert store.returned("driver.other", "x") == 2
    assert store.forget(HANDLER)
    find = getattr(rig, "find", None)
    if find is not None:
        assert [key for key in find() if HANDLER in key] == []
