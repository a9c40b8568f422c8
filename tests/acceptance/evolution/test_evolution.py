"""
Five changes of an event are deployed while a shop sells: in the right order and in the wrong one.

At each deployment there are events that wait: a backlog, a retry in the schedule, and a dead letter.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo import DeadLetter, Reason
from tests.acceptance.evolution.changes import CHANGES, FAULTY, Change
from tests.acceptance.evolution.shop import Shop
from tests.waiting import eventually

#: On RabbitMQ, one change of the five.
PLATFORMS = [("redis", name) for name in CHANGES] + [("rabbitmq", "rename")]


@pytest.fixture(params=PLATFORMS, ids="-".join)
def change(request: pytest.FixtureRequest) -> Change:
    return CHANGES[request.param[1]]


@pytest.fixture
def shop(
    request: pytest.FixtureRequest, change: Change, redis_url: str, namespace: str, tmp_path: Path
) -> Iterator[Shop]:
    """It sells, and the old code of both services runs."""
    broker = request.node.callspec.params["change"][0]
    url = request.getfixturevalue("rabbitmq_url") if broker == "rabbitmq" else redis_url
    shop = Shop(change, url, redis_url, namespace, tmp_path)
    try:
        shop.deploy("order", "before")
        shop.deploy("billing", "before")
        yield shop
    finally:
        shop.close()


def begun(shop: Shop) -> None:
    """Wait until some orders are charged, one is tried again later, and one has become a dead letter."""
    eventually(lambda: shop.has_tried and shop.letters and len(shop.charged) > 3, reason="the old code works")


def goes_on(shop: Shop) -> None:
    """Wait until orders are charged that are placed from now on."""
    goal = shop.sold + 3
    eventually(lambda: len(shop.charged) > goal, reason=f"{goal} are charged")


def all_are_charged_once(shop: Shop, change: Change) -> None:
    eventually(lambda: len(shop.charged) >= shop.sold, reason="all are charged")
    assert shop.charged == [change.noted.format(number=number) for number in range(shop.sold)]
    assert not shop.letters


def test_in_the_right_order_nothing_fails(change: Change, shop: Shop) -> None:
    with shop.selling():
        begun(shop)
        former = "before"
        for service in change.order:
            release = "between" if change.between and service == "billing" else "after"
            if release != former:
                shop.choreo(release, "events", "diff", "--against", f"../{former}/contracts", "--live", code=0)
                former = release
            shop.stop(service)
            goal = shop.sold + 5
            eventually(lambda goal=goal: shop.sold > goal, reason="a backlog")
            shop.choreo(release, "can-deploy", service, code=0)
            shop.deploy(service, release)
            goes_on(shop)
    # The dead letter of the old code is there, and no other one.
    eventually(lambda: len(shop.charged) == shop.sold - 1, reason="all but one are charged")
    (letter,) = shop.letters
    assert (letter.subject, letter.reason) == (f"CART-{FAULTY}", Reason.REFUSED)

    shop.app.dead_letters.replay(letter.id)

    all_are_charged_once(shop, change)


def test_the_wrong_order_is_refused_and_loses_nothing(change: Change, shop: Shop) -> None:
    release = "careless" if change.careless else "after"
    with shop.selling():
        begun(shop)
        if change.wrong == "billing":
            shop.stop("billing")
        refused = shop.choreo(release, "can-deploy", change.wrong, code=1)
        compared = shop.choreo(
            release, "events", "diff", "--against", "../before/contracts", "--live", code=1 if change.rule else 0
        )
        shop.deploy(change.wrong, release)
        eventually(lambda: len(wrong_letters(shop)) > 3, reason="dead letters")
    assert change.refused in unfolded(refused)
    assert f"[{change.rule or 'deploy-order'}]" in compared
    assert "billing" in compared

    # The right code.
    shop.deploy("billing", "after")
    eventually(lambda: len(shop.charged) + len(shop.letters) == shop.sold, reason="all are charged or dead letters")
    assert {letter.reason for letter in wrong_letters(shop)} == {change.reason}
    assert all(change.error in letter.error for letter in wrong_letters(shop))
    (wrong,) = (group for group in shop.app.dead_letters.groups() if group.reason == change.reason)
    assert wrong.count == len(wrong_letters(shop)), "one group has all of them"
    shop.choreo("after", "dead-letters", "replay", wrong.id, "--yes", code=0)
    (fault,) = shop.letters
    shop.app.dead_letters.replay(fault.id)

    all_are_charged_once(shop, change)


def wrong_letters(shop: Shop) -> list[DeadLetter]:
    """All but that of the fault which the old code has."""
    return [letter for letter in shop.letters if letter.reason != Reason.REFUSED]


def unfolded(said: str) -> str:
    """What a command says, in one line."""
    return " ".join(said.split())
