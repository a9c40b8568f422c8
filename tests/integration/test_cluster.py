"""Workers whose store is a Redis Cluster, behind RabbitMQ and behind a single Redis."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.contract.redis_programs import Cluster, clustered
from tests.integration.conftest import MakeWorld, World
from tests.integration.services.words import GuestArrived, MealCooked, OrderPlaced, TableSet
from tests.waiting import eventually


@dataclass
class Clustered:
    """A world with one worker for each of two services, and its store."""

    world: World
    cluster: Cluster


@pytest.fixture(scope="module", params=["redis", "rabbitmq, lane off"])
def solo(
    request: pytest.FixtureRequest, make_world: MakeWorld, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clustered]:
    broker, _, lane = request.param.partition(", ")
    with clustered(tmp_path_factory.mktemp("cluster"), timeout=1000) as cluster:
        options = ("--pool", "solo")
        world = make_world(broker, "payment", "driver", options=options, lane=not lane, store=cluster.url)
        yield Clustered(world, cluster)
        world.platform.stop()


@pytest.fixture(scope="module", params=["prefork", "threads"])
def pooled(
    request: pytest.FixtureRequest, make_world: MakeWorld, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with clustered(tmp_path_factory.mktemp("cluster")) as cluster:
        options = ("--pool", request.param, "--concurrency", "2")
        world = make_world("redis", "payment", "driver", options=options, store=cluster.url)
        yield world
        world.platform.stop()


def test_retries_joins_and_dead_letters_are_kept_in_a_cluster(solo: Clustered, subject: str) -> None:
    all_is_kept(solo.world, subject)


def test_a_pool_of_processes_or_threads_keeps_them_in_a_cluster_too(pooled: World, subject: str) -> None:
    all_is_kept(pooled, subject)

    # Both places of the pool at once, again and again: each has connections of its own to every node.
    for round_ in range(3):
        publish(pooled, f"{subject}-{round_}")
    for round_ in range(3):
        all_are_charged(pooled, f"{subject}-{round_}")
    assert [letter for letter in pooled.app.dead_letters if letter.subject.startswith(f"{subject}-0")] == []


def all_is_kept(world: World, subject: str) -> None:
    late, expired, failing = (f"{subject}-{name}" for name in ("late", "expired", "failing"))

    world.publish(OrderPlaced(behave="fail once"), subject)
    world.publish(TableSet(), subject)
    world.publish(MealCooked(), subject)
    world.publish(TableSet(), late)
    world.publish(GuestArrived(), expired)
    world.publish(OrderPlaced(behave="fail until replayed"), failing)

    world.done("charge", subject, times=2)
    world.done("charged", subject)
    world.done("serve", subject)
    world.done("give_up", late)
    assert (world.letter(expired).handler, world.letter(expired).reason) == ("driver.pour", "expired")
    world.app.dead_letters.replay(world.letter(failing).id)
    world.done("charged", failing)
    assert world.letters(failing) == []


def test_slots_that_move_and_a_node_that_fails_over_lose_no_event(solo: Clustered, subject: str) -> None:
    world, cluster = solo.world, solo.cluster
    slot = cluster.slot("payment.charge")
    assert cluster.owner(slot) == 0

    with cluster.moving(slot, 0, 1) as move:
        publish(world, f"{subject}-moving")
        move(2)
        publish(world, f"{subject}-halfway")
    with cluster.moving(slot, 1, 0):
        publish(world, f"{subject}-back")
    for name in ("moving", "halfway", "back"):
        all_are_charged(world, f"{subject}-{name}")

    publish(world, f"{subject}-before")
    eventually(cluster.replica_is_in_step)
    cluster.processes[0].kill()
    publish(world, f"{subject}-after")

    for name in ("before", "after"):
        all_are_charged(world, f"{subject}-{name}")
    assert [letter for letter in world.app.dead_letters if letter.subject.startswith(f"{subject}-")] == []


def publish(world: World, subject: str) -> None:
    for number in range(10):
        world.publish(OrderPlaced(behave="fail once" if number % 2 else ""), f"{subject}-{number}")


def all_are_charged(world: World, subject: str) -> None:
    """Each at least once: a run whose commit met the outage may have been repeated."""
    for number in range(10):
        eventually(lambda name=f"{subject}-{number}": world.notes("charged", name), reason=f"{subject}-{number}")
