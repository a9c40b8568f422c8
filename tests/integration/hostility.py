"""Mutants in the queues of real workers: how they get there, and how each is found again."""

from collections.abc import Iterator
from random import Random
from typing import Any
from uuid import uuid4

import amqp
import redis
from kombu import Connection

from choreo.events.message import Message
from tests.integration.conftest import World
from tests.integration.services.words import GuestArrived, OrderPlaced, ReminderSent
from tests.mutants import Good, Mutant, mutants
from tests.unit.test_queue import NOTICE
from tests.waiting import eventually

#: The services of the world that gets mutants: one with a handler, a listener and a task, and one with joins.
SERVICES = ("payment", "driver")
#: The mutants that are put into queues at a time.
BATCH = 500


def storm(world: World, count: int, dice: Random) -> None:
    """Put ``count`` mutants into the queues of a world, and check what became of them."""
    source = goods(world)
    while count > 0:
        made = list(mutants((next(source) for _ in range(min(count, BATCH))), world.broker, dice))
        count -= len(made)
        taken = put(world, made)
        assert len(taken) > 0.9 * len(made)
        check(world, taken)
        for letter in world.app.dead_letters:
            world.app.dead_letters.discard(letter.id)


def goods(world: World) -> Iterator[Good]:
    """Good messages for each kind of queue in turn."""
    while True:
        mark = f"m-{uuid4().hex[:12]}"
        for name, event in (
            ("payment.charge", OrderPlaced(behave="quietly")),
            ("driver.remind", ReminderSent()),
            ("driver.pour", GuestArrived()),
        ):
            envelope = event.sealed(id=mark, source="stranger", subject=mark, cause=None, time=world.app.now())
            message = Message.carrying(envelope, exchange="", routing_key="")
            yield Good(queue_of(world, name), dict(message.headers), [[envelope.to_wire()], {}, {}], mark)
            mark = f"m-{uuid4().hex[:12]}"
        headers = NOTICE | {"argsrepr": mark, "root_id": mark}
        yield Good(queue_of(world, "payment.dead_letters"), headers, [[mark], {}, {}], mark)
        mark = f"m-{uuid4().hex[:12]}"
        call = {"task": "payment.plain", "id": mark, "retries": 0, "eta": None, "timelimit": [None, None]}
        following = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        yield Good(queue_of(world, "payment"), call, [[mark], {}, following], mark)


def queue_of(world: World, name: str) -> str:
    return str(world.app.runtime.topology.name_of(name))


class Raw(amqp.Message):
    """A message whose properties are these bytes."""

    raw = b""

    def _serialize_properties(self) -> bytes:
        return self.raw


def put(world: World, made: list[Mutant]) -> list[Mutant]:
    """Put the mutants into their queues, as a program that writes to the broker does. Returns those it has taken."""
    if world.broker == "redis":
        with redis.Redis.from_url(world.broker_url) as client:
            for mutant in made:
                client.lpush(mutant.queue, mutant.text)
        return made
    with Connection(world.broker_url, transport_options={"confirm_publish": True}) as connection:
        return [mutant for mutant in made if is_taken(connection, mutant)]


def is_taken(connection: Connection, mutant: Mutant) -> bool:
    """False if RabbitMQ refuses the message: it closes the connection for properties that it cannot read."""
    if isinstance(mutant.properties, bytes):
        message = Raw(mutant.text)
        message.raw = mutant.properties
    else:
        message = amqp.Message(mutant.text, **(mutant.properties or {}))
    channel: Any = connection.default_channel
    try:
        channel.basic_publish(message, "", mutant.queue)
    except amqp.AMQPError:
        connection.close()
        return False
    return True


def check(world: World, made: list[Mutant]) -> None:
    """Nothing is left, nothing is lost, and good events run."""
    world.settled()
    marks = [f"good-{uuid4().hex[:8]}" for _ in range(20)]
    for mark in marks:
        world.publish(OrderPlaced(behave="quietly"), mark)
        world.publish(ReminderSent(), mark)
    for mark in marks:
        world.done("charged", mark)
        world.done("remind", mark)
    assert world.platform.exited == {}
    eventually(lambda: not left(world), reason="everything to be acked")
    lost = missing(world, made)
    assert not lost, "\n".join(repr(mutant)[:2000] for mutant in lost[:10])


def left(world: World) -> list[str]:
    """What is still in queues, or in flight."""
    found = [*world.backlog()]
    if world.broker == "redis":
        with redis.Redis.from_url(world.broker_url) as client:
            found += [str(key) for key in client.scan_iter("*inflight*") if client.type(key) == b"hash"]
    return found


def missing(world: World, made: list[Mutant]) -> list[Mutant]:
    """The mutants of which there is no trace, although they can be told apart."""
    letters = list(world.app.dead_letters)
    bodies = {letter.message.body for letter in letters}
    traces = "".join(letter.to_json() for letter in letters) + world.journal.read_text()
    return [
        mutant
        for mutant in made
        if not is_traceless(world, mutant)
        and mutant.is_marked
        and mutant.body not in bodies
        and mutant.mark not in traces
    ]


def is_traceless(world: World, mutant: Mutant) -> bool:
    """True for what a service acks without a trace."""
    # A notice of a letter that does not exist, and an event of a type that the join does not wait for (any more).
    return mutant.queue == queue_of(world, "payment.dead_letters") or (
        mutant.queue == queue_of(world, "driver.pour") and b"guest.arrived" not in mutant.body
    )
