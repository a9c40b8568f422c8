"""A worker that is stopped in the middle loses nothing, and nobody else notices."""

import signal

from tests.integration.conftest import World
from tests.integration.services.words import OrderPlaced
from tests.waiting import eventually


def publish_slow_orders(world: World, subject: str, count: int = 30) -> list[str]:
    subjects = [f"{subject}-{number}" for number in range(count)]
    for each in subjects:
        world.publish(OrderPlaced(behave="slow"), each)
    return subjects


def noted(world: World, what: str, subjects: list[str]) -> list[str]:
    """For which of these orders this was done, once for each time."""
    return sorted(note["subject"] for note in world.notes(what) if note["subject"] in subjects)


def charged(world: World, subjects: list[str]) -> list[str]:
    return noted(world, "charged", subjects)


def become(world: World, what: str, subjects: list[str]) -> None:
    """Wait until this was done for all of these orders; then it was done once for each."""
    eventually(lambda: set(noted(world, what, subjects)) == set(subjects), reason=f"{what} of every order")
    assert noted(world, what, subjects) == sorted(subjects)


def test_sigterm_in_the_middle_of_a_batch_loses_nothing_and_repeats_nothing(world: World, subject):
    subjects = publish_slow_orders(world, subject)
    eventually(lambda: len(charged(world, subjects)) >= 3)

    world.platform.stop("payment")
    stopped_at = charged(world, subjects)
    world.platform.start("payment")
    world.platform.wait_ready()

    assert 3 <= len(stopped_at) < len(subjects), "the worker was to be stopped in the middle"
    assert "loyalty" in world.platform.running
    eventually(lambda: len(charged(world, subjects)) >= len(subjects))
    world.settled()
    # Each was charged once, and begun once; the other service saw each order and each charge once.
    for what in ("charged", "charge", "award", "thank"):
        become(world, what, subjects)


def test_events_wait_for_a_service_that_is_stopped(world: World, subject):
    world.platform.stop("loyalty")

    world.publish(OrderPlaced(), subject)
    world.done("charged", subject)
    assert world.notes("award", subject) == []

    world.platform.start("loyalty")
    world.platform.wait_ready()
    world.done("award", subject)
    world.done("thank", subject)


def test_a_worker_that_is_killed_loses_nothing(world: World, subject):
    subjects = publish_slow_orders(world, subject, count=20)
    eventually(lambda: len(charged(world, subjects)) >= 3)

    world.platform.kill("payment")
    world.platform.start("payment")
    world.platform.wait_ready()

    eventually(lambda: set(charged(world, subjects)) == set(subjects))
    eventually(lambda: not world.backlog())
    # What was being done may be done again, at most once for each of the two processes; nobody else sees that.
    assert len(charged(world, subjects)) <= len(subjects) + 2
    for what in ("award", "thank"):
        become(world, what, subjects)


def test_a_worker_that_is_stopped_for_a_while_is_not_missed(world: World, subject):
    subjects = publish_slow_orders(world, subject, count=6)
    eventually(lambda: len(charged(world, subjects)) >= 1)

    world.platform.signal("payment", signal.SIGSTOP)
    world.publish(OrderPlaced(), f"{subject}-meanwhile")
    world.done("award", f"{subject}-meanwhile")
    world.platform.signal("payment", signal.SIGCONT)

    eventually(lambda: set(charged(world, subjects)) == set(subjects))
    world.done("charged", f"{subject}-meanwhile")
