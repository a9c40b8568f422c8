"""The recipes of rights: what they name. That they are enough, and no more, is shown on real brokers."""

import re

import pytest

from choreo.operate.access import OPERATOR, Ground, Program, Rights, rights_of

PROGRAMS = [Program("payment", ["payment.charged"], ["order.placed"]), Program("order", None, ["payment.*"])]


def payment(ground: Ground, *, strict: bool = False) -> Rights:
    return rights_of(ground, PROGRAMS, strict=strict)[0]


def test_each_service_has_a_user_and_so_have_people() -> None:
    assert [one.user for one in rights_of(Ground(), PROGRAMS)] == ["payment", "order", OPERATOR]


@pytest.mark.parametrize(
    ("ground", "others"),
    [
        (Ground(), ["(+type +lpush +rpush %W~order %W~order.* %W~order??[369])"]),
        (Ground("staging."), ["(+type +lpush +rpush %W~staging.*)"]),
        (Ground(prefix="shop:"), ["(+type +lpush +rpush %W~shop:*)"]),
    ],
)
def test_a_common_start_of_all_names_spares_a_right_for_each_other_service(ground: Ground, others: list[str]) -> None:
    assert [rule for rule in payment(ground).broker if rule.startswith("(")] == others


def test_a_store_of_its_own_has_a_user_of_its_own() -> None:
    apart = payment(Ground(is_one_server=False))

    assert "~choreo:{payment.*}:*" in apart.store
    assert not any(rule.startswith("~choreo:") for rule in apart.broker)
    assert not any(rule.startswith("&") for rule in apart.store)


@pytest.mark.parametrize(
    ("name", "is_own"),
    [
        ("staging.payment", True),
        ("staging.payment.charge", True),
        ("payment@payment.host.staging.choreo.control.pidbox", True),
        ("payment.fast@payment.host.staging.choreo.control.pidbox", True),
        ("staging.choreo.events", True),
        ("5f3e.reply.staging.choreo.control.pidbox", True),
        ("facts", True),
        ("staging.payments.charge", False),
        ("staging.order.charge", False),
        ("payment.charge.of.another.namespace", False),
        ("choreo.events", False),
    ],
)
def test_on_rabbitmq_the_names_of_the_service_are_its_own(name: str, is_own: bool) -> None:
    ground = Ground("staging.", is_rabbitmq=True, plain_exchange="facts")

    assert bool(re.search(payment(ground).permissions[0], name)) == is_own


def test_strict_rights_name_the_types() -> None:
    topics = [one.topics for one in rights_of(Ground(is_rabbitmq=True), PROGRAMS, strict=True)]

    exchange, writes, reads = topics[0]
    assert exchange == "choreo.events"
    assert re.fullmatch(writes, "payment.charged")
    assert re.fullmatch(writes, "dead_letter.recorded")
    assert not re.fullmatch(writes, "order.placed")
    assert reads == r"^(order\.placed)$"
    # Nobody knows what the other announces; it listens to a pattern, which is bound as it is.
    assert topics[1] == ("choreo.events", ".*", r"^(payment\.\*)$")
    assert topics[2] == ()
