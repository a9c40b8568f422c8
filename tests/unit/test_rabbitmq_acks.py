"""Acks that are written together: RabbitMQ hears exactly what was answered."""

import threading
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from choreo.broker.rabbitmq.acks import Acks

NAMES = {80: "ack", 90: "reject", 120: "nack"}


class Broker:
    """RabbitMQ's end of a channel: it knows the unacked deliveries, and refuses an answer to any other."""

    def __init__(self) -> None:
        self.unacked: set[int] = set()
        self.acked: set[int] = set()
        self.back: dict[int, str] = {}
        self.frames = self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        while data:
            size = int.from_bytes(data[3:7])
            payload, end = data[7 : 7 + size], data[7 + size]
            assert (data[0], int.from_bytes(data[1:3]), end) == (1, 5, 0xCE)
            data = data[8 + size :]
            self.answer(NAMES[int.from_bytes(payload[2:4])], int.from_bytes(payload[4:12]), payload[12])

    def answer(self, name: str, tag: int, bits: int) -> None:
        self.frames += 1
        assert tag in self.unacked, f"{name} of {tag}, which is not unacked"
        if name == "ack":
            answered = {one for one in self.unacked if one <= tag} if bits else {tag}
            self.acked |= answered
        else:
            assert bits == {"nack": 2, "reject": 1}[name]
            answered = {tag}
            self.back[tag] = name
        self.unacked -= answered


class Rounds(RuleBasedStateMachine):
    """Deliveries are answered in any order; RabbitMQ counts as acked what was acked, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.acks = Acks(5, self.broker.write)
        self.delivered = 0
        self.open: list[int] = []
        self.to_ack: set[int] = set()

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        new = range(self.delivered + 1, self.delivered + count + 1)
        self.delivered += count
        self.open += new
        self.broker.unacked |= set(new)

    @rule()
    def deliver_without_ack(self) -> None:
        self.delivered += 1
        self.acks.settle(self.delivered)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def ack(self, data: Any) -> None:
        tag = data.draw(st.sampled_from(self.open))
        self.open.remove(tag)
        self.to_ack.add(tag)
        self.acks.ack(tag)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), counted=st.booleans())
    def give_back(self, data: Any, counted: bool) -> None:
        tags = data.draw(st.lists(st.sampled_from(self.open), min_size=1, unique=True))
        self.open = [tag for tag in self.open if tag not in tags]
        self.acks.give_back(tags, counted=counted)
        assert all(self.broker.back[tag] == ("reject" if counted else "nack") for tag in tags)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def reject_elsewhere(self, data: Any) -> None:
        tag = data.draw(st.sampled_from(self.open))
        self.open.remove(tag)
        self.broker.answer("reject", tag, 1)
        self.acks.settle(tag)

    @precondition(lambda self: self.to_ack)
    @rule(data=st.data())
    def ack_twice(self, data: Any) -> None:
        self.acks.ack(data.draw(st.sampled_from(sorted(self.to_ack))))

    @rule()
    def flush(self) -> None:
        writes = self.broker.writes
        self.acks.flush()
        assert self.broker.acked == self.to_ack
        assert self.broker.writes <= writes + 1

    @invariant()
    def nothing_else_is_acked(self) -> None:
        assert self.broker.acked <= self.to_ack
        assert set(self.open) <= self.broker.unacked


TestRounds = Rounds.TestCase


@pytest.fixture
def broker() -> Broker:
    return Broker()


def test_all_up_to_the_first_unanswered_are_one_frame(broker: Broker) -> None:
    acks = Acks(5, broker.write)
    broker.unacked = set(range(1, 11))

    for tag in (3, 1, 2, 4, 7, 9):
        acks.ack(tag)
    acks.flush()

    assert (broker.writes, broker.frames) == (1, 3)  # up to 4; 7; 9
    assert broker.acked == {1, 2, 3, 4, 7, 9}


def test_what_was_given_back_is_not_acked_and_does_not_stop_the_prefix(broker: Broker) -> None:
    acks = Acks(5, broker.write)
    broker.unacked = {1, 2, 3}

    acks.give_back([1], counted=False)
    acks.ack(1)
    acks.flush()
    assert (broker.frames, broker.acked) == (1, set())
    for tag in (2, 3):
        acks.ack(tag)
    acks.flush()

    assert broker.acked == {2, 3}
    assert broker.frames == 2  # the nack, and one ack


def test_what_has_ended_writes_nothing(broker: Broker) -> None:
    acks = Acks(5, broker.write)
    broker.unacked = {1, 2}
    acks.ack(1)

    acks.end()
    acks.ack(2)
    acks.flush()
    acks.give_back([1, 2], counted=False)

    assert broker.writes == 0
    assert acks.ended


def test_threads_may_ack(broker: Broker) -> None:
    acks = Acks(5, broker.write)
    broker.unacked = set(range(1, 2001))

    def ack(tags: range) -> None:
        for tag in tags:
            acks.ack(tag)
            acks.flush()

    threads = [threading.Thread(target=ack, args=(range(first, 2001, 4),)) for first in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not broker.unacked
    assert not acks.has_noted
