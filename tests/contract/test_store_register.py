"""The promises of every store: who uses it is known."""

import pytest

from choreo.store.register import MOST_UNHEARD


def test_handlers_are_remembered_sorted_and_once(store):
    assert store.handlers() == []

    store.register(["payment.charge", "driver.assign"])
    store.register(["driver.assign"])
    store.register([])

    assert store.handlers() == ["driver.assign", "payment.charge"]


def test_a_store_that_is_there_says_so(store):
    store.ping()


def test_events_that_nobody_hears_are_counted_by_type(rig):
    assert rig.store.unheard() == {}

    rig.store.note_unheard("web shop", {"orders.placed": 2, "menu.changed": 1})
    rig.store.note_unheard("shop", {"orders.placed": 3})

    found = rig.store.unheard()
    assert list(found) == ["menu.changed", "orders.placed"]
    assert (found["orders.placed"].count, found["orders.placed"].source) == (5, "shop")
    assert (found["menu.changed"].count, found["menu.changed"].source) == (1, "web shop")
    assert found["orders.placed"].last == pytest.approx(rig.store.now(), abs=60)


def test_a_program_that_makes_up_types_does_not_fill_the_store(store):
    store.note_unheard("shop", {"order.placed": 1})
    store.note_unheard("shop", {f"order.{number}": 1 for number in range(MOST_UNHEARD + 10)})
    store.note_unheard("shop", {"order.placed": 1})

    assert len(store.unheard()) == MOST_UNHEARD
    assert store.unheard()["order.placed"].count == 2


@pytest.mark.parametrize("junk", ["junk", "[1]", "null", "", b"\xff", "[" * 100_000])
def test_what_another_program_has_written_there_is_left_out(redis_rig, junk):
    store, client, prefix = redis_rig.store, redis_rig.client, redis_rig.prefix
    store.describe_joins({"driver.assign": '{"parts": []}'})
    store.note_unheard("shop", {"order.placed": 2})
    client.hset(f"{prefix}:joins", "driver.thanks", junk)
    client.hset(f"{prefix}:unheard", mapping={"n a": junk, "n b": 1, "n c": 1, "t c": junk, "t d": junk, b"\xff": junk})

    assert store.joins() == {"driver.assign": '{"parts": []}'}
    assert list(store.unheard()) == ["order.placed"]
