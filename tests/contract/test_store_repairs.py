"""The promises of every store: the newest repairs are told, newest first."""

import time

from choreo.store.repairs import MOST_REPAIRS


def test_repairs_come_newest_first_with_their_times(store):
    assert store.repairs(10) == []
    before = store.now()
    for text in ("a", "b é", "c"):
        store.note_repair(text)
        time.sleep(0.002)

    (last, newest), (_, middle) = store.repairs(2)

    assert (newest, middle) == ("c", "b é")
    assert before - 0.002 <= last <= store.now()
    assert [text for _, text in store.repairs(10)] == ["c", "b é", "a"]


def test_the_log_of_repairs_is_bounded(store):
    for number in range(MOST_REPAIRS + 500):
        store.note_repair(str(number))

    kept = store.repairs(10 * MOST_REPAIRS)

    assert MOST_REPAIRS <= len(kept) < MOST_REPAIRS + 200
    assert kept[0][1] == str(MOST_REPAIRS + 499)
