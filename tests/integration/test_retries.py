"""A handler that fails is tried again: that handler only, on its own queue, and Flower is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.integration.conftest import MakeWorld, World
from tests.integration.services.words import OrderPlaced
from tests.waiting import eventually


@contextmanager
def worker_events(world: World, service: str) -> Iterator[list[dict[str, Any]]]:
    """What Flower would be told of a service while the block runs."""
    seen: list[dict[str, Any]] = []
    stop = threading.Event()

    def listen() -> None:
        with world.app.connection_for_read() as connection:
            receiver = world.app.events.Receiver(connection, handlers={"*": seen.append})
            with receiver.consumer_context() as (own_connection, _, _):
                while not stop.is_set():
                    with suppress(TimeoutError):
                        own_connection.drain_events(timeout=0.2)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        # On Redis one listens from the first wait on, and not before: a worker's heartbeat says that this was so.
        eventually(lambda: seen, reason="a worker event")
        yield seen
    finally:
        stop.set()
        thread.join(10)


def test_a_retry_runs_the_handler_that_failed_and_no_other(world: World, subject):
    world.publish(OrderPlaced(behave="fail once"), subject)

    notes = world.done("charge", subject, times=2)
    world.done("thank", subject)
    world.settled()

    assert [note["attempt"] for note in notes] == [1, 2]
    assert {note["queue"] for note in notes} == {f"{world.namespace}.payment.charge"}
    world.done("award", subject)
    world.done("count", subject, times=2)
    assert world.letters(subject) == []


def test_retry_later_waits_as_long_as_it_says(world: World, subject):
    world.publish(OrderPlaced(behave="later"), subject)

    first, second = world.done("charge", subject, times=2)

    assert 0.5 <= second["at"] - first["at"] < 10
    world.done("thank", subject)


def test_flower_is_told_of_retries_under_one_task_id(world: World, subject):
    with worker_events(world, "payment") as seen:
        world.publish(OrderPlaced(behave="fail once"), subject)
        world.done("charged", subject)

        def of_this() -> dict[str, list[dict[str, Any]]]:
            mine = {event["uuid"] for event in seen if subject in str(event.get("args", ""))}
            kinds: dict[str, list[dict[str, Any]]] = {}
            for event in seen:
                if event.get("uuid") in mine and str(event.get("hostname", "")).startswith("payment@"):
                    kinds.setdefault(event["type"], []).append(event)
            return kinds

        # They come from two processes, so in no certain order.
        eventually(
            lambda: {"task-retried", "task-succeeded"} <= of_this().keys() and len(of_this()["task-received"]) > 1
        )
        told = of_this()

    (retried,) = told["task-retried"]
    received = sorted(told["task-received"], key=lambda event: event["retries"])
    assert "not yet" in retried["exception"]
    assert [event["name"] for event in received] == ["payment.charge"] * 2
    assert [event["retries"] for event in received] == [0, 1]
    assert len({event["uuid"] for event in received}) == 1
    assert subject in received[0]["args"]


CRASHES = ["SystemExit", "KeyboardInterrupt", "MemoryError", "RecursionError", "CancelledError"]


def all_crash_and_the_worker_goes_on(world: World, subject: str) -> None:
    for crash in CRASHES:
        world.publish(OrderPlaced(behave=crash), f"{subject}-{crash}")
    world.publish(OrderPlaced(), subject)

    world.done("charged", subject)
    for crash in CRASHES:
        letter = world.letter(f"{subject}-{crash}")
        assert letter.reason == "exhausted"
        assert letter.attempts == 3
        assert ("BaseException" if crash == "CancelledError" else crash) in letter.error
        world.done("charge", f"{subject}-{crash}", times=3)
    assert world.platform.exited == {}


def test_what_would_end_the_worker_is_a_failure_like_any_other(world: World, subject):
    all_crash_and_the_worker_goes_on(world, subject)


@pytest.mark.parametrize(
    "options", [("--pool", "threads", "--concurrency", "2"), ("--pool", "solo")], ids=["threads", "solo"]
)
def test_what_would_end_the_worker_is_a_failure_like_any_other_in_every_pool(make_world: MakeWorld, options, subject):
    world = make_world("redis", "payment", options=options)

    all_crash_and_the_worker_goes_on(world, subject)

    world.platform.stop()
