"""How the store keeps the parts of a join."""

import pytest

from choreo.store.parts import key_of, name_of, packed, unit_of, unpacked
from tests.unit.events import NOON, OrderPlaced, envelope

PLAIN = envelope(OrderPlaced(customer_id="Zoë"))
FULL = envelope(
    OrderPlaced(customer_id="a"), id="a/b", causation_id="e-0", version=3, extensions={"traceparent": "00-1"}, time=NOON
)


@pytest.mark.parametrize("event", [PLAIN, FULL])
@pytest.mark.parametrize("several", [(), ("order.placed",)])
def test_a_part_comes_back_whole(event, several):
    assert unpacked({name_of(event, several): packed(event)}) == [event]


def test_a_part_takes_little_more_than_what_it_says():
    assert "specversion" not in packed(PLAIN)
    assert "order.placed" not in packed(PLAIN)


def test_a_key_is_found_again_and_what_is_no_join_has_none():
    assert key_of(unit_of("join:ORD-1 é")) == "join:ORD-1 é"
    assert key_of("e-1") is None
