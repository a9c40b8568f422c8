"""Stories on real workers: an overdue one is announced once, and its later end is counted."""

from collections.abc import Iterator

import pytest

from choreo import PendingStory
from tests.integration.conftest import MakeWorld, World
from tests.integration.services.words import (
    ParcelDelivered,
    ParcelFound,
    ParcelLost,
    ParcelSent,
    ParcelTraced,
    ParcelWeighed,
)
from tests.waiting import eventually

LOST, TRACED, FOUND = ParcelLost(), ParcelTraced(), ParcelFound()
SENT, WEIGHED, DELIVERED = ParcelSent(), ParcelWeighed(), ParcelDelivered()


def pending(world: World, subject: str) -> list[PendingStory]:
    return world.app.stories.find(subject)


def counts(world: World, story: str) -> dict[str, int]:
    return world.app.stories.counts(story)


@pytest.fixture
def subject(world: World, subject: str) -> Iterator[str]:
    """The other tests wait until nothing is left to do, so each story ends with its test."""
    yield subject
    if pending(world, subject):
        world.publish(FOUND, subject)
        eventually(lambda: not pending(world, subject), reason="the story to end")


def test_a_story_that_does_not_end_is_announced_once_and_ended_late(world: World, subject: str) -> None:
    before = counts(world, "search")
    placed = world.publish(LOST, subject)

    (told,) = world.done("search_again", subject)
    (story,) = pending(world, subject)
    assert (told["key"], told["story"], told["missing"]) == (subject, "search", ["parcel.traced"])
    assert (story.overdue, story.step, story.steps, story.since) == (True, 1, 3, placed.time)
    assert subject in [one.key for one in world.app.stories if one.overdue]

    world.publish(TRACED, subject)
    world.publish(FOUND, subject)

    eventually(lambda: not pending(world, subject), reason="the story to end")
    world.settled()
    world.done("search_again", subject)
    after = counts(world, "search")
    assert {name: after[name] - before[name] for name in ("overdue", "ended_late")} == {"overdue": 1, "ended_late": 1}
    assert world.letters(subject) == []


@pytest.mark.parametrize("order", [(SENT, WEIGHED, DELIVERED), (DELIVERED, WEIGHED, SENT), (DELIVERED, SENT, WEIGHED)])
def test_a_story_that_ends_in_time_leaves_nothing_in_any_order_and_with_duplicates(
    world: World, subject: str, order
) -> None:
    before = counts(world, "transport")
    published = [world.publish(event, subject) for event in order]
    world.app.publisher.announce(published)

    ended = before | {"ended_in_time": before["ended_in_time"] + 1}
    eventually(lambda: counts(world, "transport") == ended, reason="the story to be counted")
    world.settled()
    assert (pending(world, subject), counts(world, "transport")) == ([], ended)


def test_a_story_lasts_longer_than_its_workers(world: World, subject: str) -> None:
    world.publish(LOST, subject)
    world.platform.kill("driver")
    world.platform.start("driver")
    world.platform.wait_ready()

    world.done("search_again", subject)


def test_a_solo_worker_that_asks_ahead_follows_every_story(make_world: MakeWorld) -> None:
    world = make_world("redis", "driver", options=("--pool", "solo"))
    subjects = [f"ORD-{number}" for number in range(50)]
    for events in ([DELIVERED, WEIGHED], [SENT]):
        for event in events:
            world.app.publish_many(event.about(subject) for subject in subjects)

    eventually(lambda: counts(world, "transport")["ended_in_time"] == 50, reason="all stories to end")

    world.settled()
    assert list(world.app.stories.of("transport")) == []
    assert counts(world, "transport") == dict.fromkeys(counts(world, "transport"), 0) | {"ended_in_time": 50}
