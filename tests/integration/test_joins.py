"""A join fires once for its subject, in whatever order its parts come, and however often."""

import threading

import pytest

from tests.integration.conftest import OPTIONS, PACKAGE, World
from tests.integration.services.making import JOURNAL, NAMESPACE
from tests.integration.services.words import (
    BasketFilled,
    BookLent,
    BookReturned,
    GuestArrived,
    ItemPacked,
    MealCooked,
    OrderConfirmed,
    OrderRejected,
    PaymentCharged,
    ReminderSent,
    TableSet,
    WineOpened,
)
from tests.platforms import ForkedPlatform
from tests.waiting import eventually

CONFIRMED, CHARGED, REJECTED = OrderConfirmed(), PaymentCharged(), OrderRejected()


@pytest.mark.parametrize("order", [(CONFIRMED, CHARGED), (CHARGED, CONFIRMED)], ids=["ab", "ba"])
def test_a_join_fires_once_in_either_order(world: World, subject, order):
    for part in order:
        world.publish(part, subject)

    (assign,) = world.done("assign", subject)
    world.done("watch", subject)

    assert assign["parts"] == ["order.confirmed", "payment.charged"]


def test_parts_that_come_more_than_once_change_nothing(world: World, subject):
    for part in (CONFIRMED, CONFIRMED, CHARGED, CHARGED, CONFIRMED):
        world.publish(part, subject)

    world.done("watch", subject)
    world.publish(CHARGED, subject)
    world.settled()

    world.done("assign", subject)
    world.done("watch", subject)


def test_the_same_key_is_joined_again_and_again_and_events_that_come_again_change_nothing(world: World, subject):
    lent = [world.publish(BookLent(), subject) for _ in range(3)]
    returned = [world.publish(BookReturned(), subject) for _ in range(3)]
    world.app.publisher.announce([*lent, *returned])
    world.done("end_loan", subject, times=3)
    world.app.publisher.announce([*lent, *returned])
    world.settled()

    notes = world.done("end_loan", subject, times=3)
    assert sorted(part for note in notes for part in note["parts"]) == sorted(part.id for part in lent + returned)
    assert world.app.joins.find(subject) == []


@pytest.mark.parametrize(
    "order", [(REJECTED, CONFIRMED, CHARGED), (CONFIRMED, REJECTED, CHARGED)], ids=["first", "later"]
)
def test_a_cancelled_join_does_not_fire(world: World, subject, order):
    for part in order:
        world.publish(part, subject)
        world.settled()

    assert world.notes("assign", subject) == []
    assert world.letters(subject) == []


def test_what_is_not_complete_in_time_ends_with_on_timeout(world: World, subject):
    world.publish(TableSet(), subject)

    (late,) = world.done("give_up", subject)
    (watch,) = world.done("watch", subject)
    world.publish(MealCooked(), subject)
    world.settled()

    assert (late["cooked"], late["laid"]) == (False, True)
    assert watch["data"] == {"driver_id": "none"}
    assert world.notes("serve", subject) == []


def test_what_is_complete_in_time_does_not_end_with_on_timeout(world: World, subject):
    world.publish(TableSet(), subject)
    world.publish(MealCooked(), subject)

    world.done("serve", subject)
    world.settled()

    assert world.notes("give_up", subject) == []


def test_without_on_timeout_what_had_arrived_becomes_a_dead_letter(world: World, subject):
    guest = world.publish(GuestArrived(), subject)

    letter = world.letter(subject)

    assert (letter.handler, letter.reason) == ("driver.pour", "expired")
    assert list(letter.envelopes) == [guest]
    world.done("told", subject)


def test_an_expired_join_is_completed_after_a_replay(world: World, subject):
    world.publish(GuestArrived(), subject)
    letter = world.letter(subject)
    world.publish(WineOpened(), f"{subject}-other")

    world.app.dead_letters.replay(letter.id)
    world.publish(WineOpened(), subject)

    world.done("pour", subject)


def fill(world: World, subject: str, count: int, behave: str = "") -> None:
    """A basket, and what is to be packed into it, in some order and one thing twice."""
    packed = [ItemPacked(basket=subject, behave=behave if number == 0 else "") for number in range(count)]
    world.publish(packed[0], f"{subject}-item-0")
    envelope = world.publish(BasketFilled(items=["?"] * count), subject)
    for number in range(1, count):
        world.publish(packed[number], f"{subject}-item-{number}")
    world.app.publisher.announce([envelope])


def test_as_many_as_another_part_says_are_joined_by_a_field(world: World, subject):
    fill(world, subject, 3)

    (collect,) = world.done("collect", subject)
    world.settled()

    assert collect["items"] == [f"{subject}-item-{number}" for number in range(3)]
    world.done("collect", subject)


def test_a_worker_killed_with_a_complete_join_in_its_hands_leads_to_one_firing_more(world: World, subject):
    fill(world, subject, 3, behave="kill")

    first, second = world.done("collect", subject, times=2)
    world.settled()

    assert first["items"] == second["items"]
    assert first["pid"] != second["pid"]
    assert list(world.app.joins.find(subject)) == []


def test_a_join_of_several_is_replayed_with_all_of_them(world: World, subject):
    fill(world, subject, 3, behave="refuse")
    letter = world.letter(subject)
    assert len(letter.envelopes) == 4

    world.app.dead_letters.replay(letter.id)

    first, second = world.done("collect", subject, times=2)
    assert first["items"] == second["items"]


def test_a_pending_join_is_seen_from_outside_and_fired_by_hand(world: World, subject):
    world.publish(BasketFilled(items=["?"] * 3), subject)
    world.publish(ItemPacked(basket=subject), f"{subject}-item-0")
    eventually(lambda: [len(join.arrived) for join in world.app.joins.find(subject)] == [2], reason="two parts")

    join = world.app.joins.fire(subject)

    assert [str(missing) for missing in join.missing] == ["2 x item.packed"]
    (collect,) = world.done("collect", subject)
    assert collect["items"] == [f"{subject}-item-0"]
    eventually(lambda: not world.app.joins.find(subject), reason="the join to be settled")


def test_a_pending_join_is_cancelled_by_hand(world: World, subject):
    world.publish(CONFIRMED, subject)
    eventually(lambda: world.app.joins.find(subject), reason="the join")

    world.app.joins.cancel(subject, "a test", "driver.assign")
    world.publish(CHARGED, subject)
    world.settled()

    assert world.notes("assign", subject) == []


def test_delayed_events_leave_in_time_and_those_called_off_do_not(world: World, subject):
    # This program has no workers of its own.
    late = world.app.publish(ReminderSent(), subject=subject, delay=1.0)
    never = world.app.publish(ReminderSent(), subject=f"{subject}-never", delay=1.0)
    assert never.cancel()

    (remind,) = world.done("remind", subject)
    world.settled()

    assert remind["due"] == late.at.timestamp()
    assert remind["at"] - remind["due"] >= 0
    assert world.notes("remind", f"{subject}-never") == []
    assert not late.cancel()


def test_two_workers_of_one_service_fire_each_join_once(world: World, subject):
    second = ForkedPlatform(
        PACKAGE,
        broker_url=world.broker_url,
        store_url=world.store_url,
        environment={JOURNAL: str(world.journal), NAMESPACE: world.namespace},
        worker_options=(*OPTIONS, "-n", "second-driver@%h"),
    )
    subjects = [f"{subject}-{number}" for number in range(20)]

    def publish(part):
        for each in subjects:
            world.app.publish(part, subject=each)

    with second:
        second.start("driver")
        second.wait_ready()
        threads = [threading.Thread(target=publish, args=(part,)) for part in (CONFIRMED, CHARGED)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for each in subjects:
            world.done("watch", each)
        world.settled()

    notes = [note for note in world.notes("assign") if note["subject"] in subjects]
    assert sorted(note["subject"] for note in notes) == sorted(subjects)
    assert len({note["pid"] for note in notes}) > 2, "only one of the workers did anything"
