"""The promises of every store: slots of handlers with a concurrency."""

from choreo.store.slots import Slot
from tests.contract.rigs import HANDLER, LEASE

OTHER = "payment.charge"


def slot(token: str, handler: str = HANDLER) -> Slot:
    return Slot(handler, token)


def test_no_more_slots_are_taken_than_the_concurrency_allows(store):
    assert store.take_slot(slot("a"), 2, "one")
    assert store.take_slot(slot("b"), 2, "two")

    assert not store.take_slot(slot("c"), 2, "one")
    assert store.taken_slots(HANDLER) == ["a", "b"]


def test_taking_a_slot_again_changes_nothing(store):
    assert store.take_slot(slot("a"), 1, "one")

    assert store.take_slot(slot("a"), 1, "one")
    assert store.taken_slots(HANDLER) == ["a"]


def test_each_handler_has_slots_of_its_own(store):
    assert store.take_slot(slot("a"), 1, "one")

    assert store.take_slot(slot("b", OTHER), 1, "one")


def test_a_slot_that_is_given_up_can_be_taken_at_once(store):
    store.take_slot(slot("a"), 1, "one")
    assert not store.take_slot(slot("b"), 1, "two")

    store.free_slot(slot("a"))
    store.free_slot(slot("a"))

    assert store.take_slot(slot("b"), 1, "two")
    assert store.taken_slots(HANDLER) == ["b"]


def test_a_slot_is_free_when_its_lease_has_run_out(rig):
    rig.store.take_slot(slot("a"), 1, "one")

    rig.pass_time(LEASE + 1)

    assert rig.store.taken_slots(HANDLER) == []
    assert rig.store.take_slot(slot("b"), 1, "two")
    assert not rig.store.renew_slot(slot("a"))


def test_a_slot_that_is_renewed_stays_taken(rig):
    rig.store.take_slot(slot("a"), 1, "one")
    rig.pass_time(LEASE * 0.6)

    assert rig.store.renew_slot(slot("a"))

    rig.pass_time(LEASE * 0.6)
    assert not rig.store.take_slot(slot("b"), 1, "two")
    assert rig.store.taken_slots(HANDLER) == ["a"]


def test_a_worker_that_has_waited_goes_before_one_that_asks_anew(rig):
    rig.store.take_slot(slot("a"), 1, "one")
    assert not rig.store.take_slot(slot("b"), 1, "two")
    rig.pass_time(1)
    assert not rig.store.take_slot(slot("b"), 1, "two")
    rig.store.free_slot(slot("a"))

    assert not rig.store.take_slot(slot("c"), 1, "one")
    assert rig.store.take_slot(slot("b"), 1, "two")


def test_a_worker_that_asks_no_more_holds_up_none(rig):
    rig.store.take_slot(slot("a"), 1, "one")
    assert not rig.store.take_slot(slot("b"), 1, "two")
    rig.store.free_slot(slot("a"))

    rig.pass_time(3)

    assert rig.store.take_slot(slot("c"), 1, "one")
