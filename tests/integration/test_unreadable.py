"""Whatever lands in a handler's queue: it is kept if it cannot be read, and the worker goes on."""

import json
from typing import Any

import pytest
from kombu import Producer

from choreo.broker.incoming import DELIVERY_COUNT
from choreo.broker.queue import GuardedQueue
from choreo.events.message import JSON, Message
from tests.integration.conftest import World
from tests.integration.services.words import OrderPlaced
from tests.unit.test_queue import MALFORMED, ODD
from tests.waiting import eventually


def put(world: World, queue: str, body: Any, headers: Any, content_type: Any, content_encoding: Any) -> None:
    """Put this into a queue, as a stranger who writes to the broker would."""
    with world.app.connection_for_write() as connection:
        Producer(connection.default_channel).publish(
            body,
            exchange="",
            routing_key=world.app.runtime.topology.name_of(queue),
            headers=headers,
            content_type=content_type,
            content_encoding=content_encoding,
        )


def good(world: World, subject: str) -> Message:
    envelope = OrderPlaced().sealed(
        id=f"id-{subject}", source="stranger", subject=subject, cause=None, time=world.app.now()
    )
    return world.app.publisher.message_for(envelope)


def cases(world: World, queue: str) -> int:
    """Put every malformed delivery into a queue that this broker's client lets through. Returns how many."""
    template, count = good(world, "template"), 0
    for case in (MALFORMED | ODD).values():
        headers = case.get("headers", {})
        try:
            put(
                world,
                queue,
                case.get("body", template.body),
                {} if headers is None else {**template.headers, **headers},
                case.get("content_type", JSON),
                case.get("content_encoding", "utf-8"),
            )
        except Exception:  # this client cannot even send it
            continue
        count += 1
    return count


def test_what_cannot_be_read_is_kept_and_the_next_good_event_runs(world: World, subject):
    before = len(world.app.dead_letters.find("payment.charge"))

    count = cases(world, "payment.charge")
    world.publish(OrderPlaced(), subject)

    world.done("charged", subject)
    world.settled()
    unreadable = [letter for letter in world.app.dead_letters.find("payment.charge") if letter.reason == "unreadable"]
    assert count > 40
    assert len(world.app.dead_letters.find("payment.charge")) - before >= count - len(ODD) - 5
    assert all(letter.error and not letter.envelopes for letter in unreadable)
    assert world.platform.exited == {}


@pytest.mark.parametrize("queue", ["analytics.dead_letters", "analytics"])
def test_garbage_in_a_queue_of_the_services_own_does_not_stop_it(world: World, subject, queue):
    cases(world, queue)
    world.publish(OrderPlaced(), subject)

    world.done("count", subject, times=2)
    assert world.platform.exited == {}


def test_what_could_not_be_read_is_told_and_can_be_replayed_once_it_can(world: World, subject):
    message = good(world, subject)
    put(world, "payment.charge", message.body, {"task": "nobody.knows"}, JSON, "utf-8")

    def found():
        return [
            letter
            for letter in world.app.dead_letters.find("payment.charge")
            if letter.reason == "unreadable" and subject.encode() in letter.message.body
        ]

    (letter,) = eventually(found)
    assert "nobody.knows" in letter.error
    assert json.loads(letter.message.body) == json.loads(message.body)
    eventually(lambda: [note for note in world.notes("told") if note.get("letter") == letter.id])

    world.app.dead_letters.replay(letter.id)

    eventually(lambda: [again for again in found() if again.id != letter.id])


def test_a_call_that_kills_each_child_is_parked_after_some_returns(world: World, subject):
    most = GuardedQueue.most_returns
    # Nearly all of its returns have happened already: a pool takes seconds to replace a child.
    if world.broker == "rabbitmq":
        for _ in range(most - 1):
            world.app.runtime.store.returned("loyalty", f"{subject} None")
    headers = {"task": "loyalty.vanish", "id": subject, DELIVERY_COUNT: most - 1}
    put(world, "loyalty", b"[[], {}, {}]", headers, JSON, "utf-8")

    def found():
        return [letter for letter in world.app.dead_letters.find("loyalty") if "never settled" in letter.error]

    (letter,) = eventually(found)
    assert (letter.handler, letter.reason) == ("loyalty", "poison")
    assert letter.message.headers["id"] == subject
    world.publish(OrderPlaced(), subject)
    world.done("charged", subject)
    assert world.platform.exited == {}
