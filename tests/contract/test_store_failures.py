"""The promises of every store: failures of a handler in a row are counted for all its workers together."""

import pytest

from choreo.store.failures import MOST_KINDS, Row
from choreo.store.schedule import Scheduled
from tests.contract.rigs import HANDLER, due, message

OTHER = "payment.charge"


def counts(row: Row) -> tuple[int, int]:
    return row.of_kind, row.total


def test_failures_are_counted_by_kind_and_together(store):
    assert counts(store.count_failure(HANDLER, "ConnectionError payment.charge")) == (1, 1)
    assert counts(store.count_failure(HANDLER, "ConnectionError payment.charge")) == (2, 2)
    assert counts(store.count_failure(HANDLER, "TimeoutError payment.charge")) == (1, 3)
    assert counts(store.count_failure(HANDLER, "ConnectionError payment.charge")) == (3, 4)


def test_a_row_begins_with_its_first_failure(store):
    before = store.now()

    first, second = store.count_failure(HANDLER, "A"), store.count_failure(HANDLER, "B")

    assert before - 0.002 <= first.since == second.since <= store.now()


def test_handlers_are_counted_apart(store):
    store.count_failure(HANDLER, "A")

    assert counts(store.count_failure(OTHER, "A")) == (1, 1)
    store.forget_failures(OTHER)
    assert counts(store.count_failure(HANDLER, "A")) == (2, 2)


def test_a_success_ends_the_row(store):
    store.count_failure(HANDLER, "A")
    store.forget_failures(HANDLER)
    store.forget_failures(HANDLER)

    assert counts(store.count_failure(HANDLER, "A")) == (1, 1)


def test_a_row_can_begin_anew_with_a_failure(store):
    first = store.count_failure(HANDLER, "A")
    store.count_failure(HANDLER, "B")

    anew = store.count_failure(HANDLER, "A", anew=True)

    assert counts(anew) == (1, 1)
    assert anew.since >= first.since


def test_errors_that_are_all_different_fill_no_store(store):
    for number in range(MOST_KINDS + 5):
        assert store.count_failure(HANDLER, f"KeyError {number}").of_kind == 1

    assert counts(store.count_failure(HANDLER, "KeyError 0")) == (2, MOST_KINDS + 6)
    assert store.count_failure(HANDLER, f"KeyError {MOST_KINDS + 1}").of_kind == 1


@pytest.mark.parametrize("kind", ["", "total", "since", "é\n😀"])
def test_a_kind_is_any_text(store, kind):
    assert counts(store.count_failure(HANDLER, kind)) == (1, 1)
    assert counts(store.count_failure(HANDLER, kind)) == (2, 2)


def test_what_waits_for_the_end_of_a_pause_falls_due_at_once(rig):
    store = rig.store
    for name in ("held:1", "held:2", "held:3"):
        store.schedule(HANDLER, Scheduled(name, message(), 3600))
        store.note_held(HANDLER, name)
    store.schedule(HANDLER, Scheduled("retry:1", message(), 3600))
    assert due(store) == []

    assert store.hasten_held(HANDLER, 1) == 1
    assert due(store) == ["held:1"]
    assert store.hasten_held(HANDLER) == 2
    assert due(store) == ["held:2", "held:3"]
    assert store.hasten_held(HANDLER) == 0


def test_an_entry_that_is_gone_or_being_sent_is_not_hastened(rig):
    store = rig.store
    store.note_held(HANDLER, "held:gone")
    store.schedule(HANDLER, Scheduled("held:sent", message()))
    assert due(store) == ["held:sent"]  # and held back now
    store.note_held(HANDLER, "held:sent")
    store.schedule(HANDLER, Scheduled("held:1", message(), 3600))
    store.note_held(HANDLER, "held:1")

    assert store.hasten_held(HANDLER, 1) == 1
    assert due(store) == ["held:1"]
