"""On Redis, messages that the program holds back do not use up the prefetch of other queues."""

import time
from typing import Any

import pytest
from kombu import Producer, Queue

from choreo.broker.incoming import source_of
from choreo.broker.redis import qos, taking
from tests.contract.redis_broker import EVENTS, Corner, Reader
from tests.waiting import eventually


def fill(corner: Corner, queue: str, *bodies: Any) -> None:
    for body in bodies:
        corner.put(queue, body)


def holding(reader: Reader, *queues: str, seconds: float = 60.0) -> set[str]:
    """Let the program hold back every message of these queues that it has not acked. Returns the set of queues."""
    held = set(queues)

    def counts() -> dict[str, int]:
        mine = [message for message in reader.messages if not message.acknowledged]
        found = {queue: sum(source_of(message) == queue for message in mine) for queue in held}
        return {queue: count for queue, count in found.items() if count}

    reader.channel.qos.held, reader.channel.qos.held_for = counts, lambda: seconds
    return held


def test_a_queue_whose_messages_are_held_back_leaves_the_prefetch_to_the_others(corner: Corner):
    fill(corner, "slow", *range(20))
    reader = corner.reader("slow", "quick", prefetch=3)
    holding(reader, "slow")
    reader.drain(3)
    assert reader.nothing()

    fill(corner, "quick", *range(100, 108))
    reader.drain(6)
    assert reader.nothing()
    for message in reader.messages[3:]:
        message.ack()
    reader.drain(9)

    assert reader.bodies == [0, 1, 2, *range(100, 106)]
    assert len(corner.waiting("slow")) == 17


def test_several_such_queues_are_full_each_by_itself(corner: Corner):
    fill(corner, "slow", *range(20))
    fill(corner, "slower", *range(20))
    reader = corner.reader("slow", "slower", "quick", prefetch=3)
    holding(reader, "slow", "slower")
    while not reader.nothing():
        pass
    assert (len(corner.waiting("slow")), len(corner.waiting("slower"))) == (17, 17)

    fill(corner, "quick", 100)
    reader.drain(7)

    assert reader.bodies[-1] == 100


def test_a_message_counts_for_its_queue_whatever_its_senders_routing_key_was(corner: Corner):
    reader = corner.reader(Queue("mail", EVENTS, "mail.#"), "quick", prefetch=3)
    holding(reader, "mail")
    # A program that uses kombu's own transport writes its routing key into the message.
    other = Producer(corner.connect(transport="redis").channel())
    for number in range(20):
        other.publish(number, exchange=EVENTS, routing_key="mail.sent", declare=[EVENTS])
    while not reader.nothing():
        pass
    assert {message.delivery_info["routing_key"] for message in reader.messages} == {"mail.sent"}
    assert len(corner.waiting("mail")) == 17

    fill(corner, "quick", *range(100, 108))
    while not reader.nothing():
        pass

    assert reader.bodies == [0, 1, 2, 100, 101, 102]


def test_a_queue_with_little_room_limits_only_itself(corner: Corner):
    fill(corner, "slow", 0, 1)
    reader = corner.reader("slow", "quick", prefetch=3)
    holding(reader, "slow")
    reader.drain(2)

    fill(corner, "slow", *range(2, 22))
    fill(corner, "quick", *range(100, 120))
    reader.drain(3)

    # One take brings as many as the prefetch allows, and one message of the queue that has room for one.
    assert len(reader.messages) + len(reader.channel.arrived) == 5
    assert len(corner.waiting("slow")) == 19
    while not reader.nothing():
        pass
    assert len(corner.waiting("slow")) == 19


def test_a_full_queue_gets_more_as_soon_as_one_of_its_messages_is_done(corner: Corner):
    fill(corner, "slow", *range(20))
    reader = corner.reader("slow", "quick", prefetch=3)
    holding(reader, "slow", seconds=0.05)
    reader.drain(3)
    assert reader.nothing()

    for count in range(4, 10):
        reader.messages[count - 4].ack()
        began = time.monotonic()
        reader.drain(count)
        # A wait for the other queue alone would take a second.
        assert time.monotonic() - began < taking.LONGEST_WAIT / 2


def test_a_queue_whose_messages_go_on_shares_the_prefetch_again(corner: Corner):
    fill(corner, "slow", *range(5))
    reader = corner.reader("slow", "quick", prefetch=3)
    held = holding(reader, "slow")
    reader.drain(3)
    fill(corner, "quick", *range(100, 105))
    reader.drain(6)

    held.clear()
    assert reader.nothing()
    for message in reader.messages[:4]:
        message.ack()
    reader.drain(7)

    assert reader.nothing()
    assert len(reader.messages) == 7


def test_without_a_prefetch_nothing_is_full(corner: Corner):
    fill(corner, "slow", *range(20))
    reader = corner.reader("slow")
    holding(reader, "slow")

    assert reader.drain(20)


def test_a_slow_handler_leaves_room_for_the_others(corner: Corner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(qos, "SLOW", 0.2)
    for number in range(20):
        corner.put("shop.slow", number, headers={"task": "slow"})
    reader = corner.reader("shop.slow", "shop.quick", prefetch=8, at_a_time=2)
    reader.drain(8)
    eventually(lambda: reader.channel.qos.room() == {"shop.slow": 0})

    for message in reader.messages[:4]:
        message.ack()
    assert reader.nothing()
    reader.messages[4].ack()
    reader.drain(9)
    # Three of the first ones are left, and one more has come.
    fill(corner, "shop.quick", *range(100, 110))
    reader.drain(9 + 4)

    assert reader.bodies == [*range(9), *range(100, 104)]
    assert reader.nothing(0.05)


def test_ordinary_tasks_that_wait_for_something_make_no_queue_slow(corner: Corner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(qos, "SLOW", 0.2)
    for number in range(20):
        corner.put("shop", number, headers={"task": "shop.count", "eta": "2030-01-01T00:00:00"})
    reader = corner.reader("shop", prefetch=8, at_a_time=2)
    reader.drain(8)
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > 0.3)

    assert reader.channel.qos.room() == {}
