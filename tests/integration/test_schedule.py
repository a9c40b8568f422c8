"""A retry in an hour: hurried, or dropped and replayed, while real workers run."""

from choreo import Reason
from tests.integration.conftest import World
from tests.integration.services.words import MealCooked, OrderPlaced
from tests.waiting import eventually


def retry_of(world: World, subject: str) -> str:
    """Wait for the retry of this order. Returns its id."""
    world.publish(OrderPlaced(behave="in an hour"), subject)
    world.done("charge", subject)
    eventually(lambda: world.app.schedule.find(subject, "payment.charge"), reason="the retry")
    (entry,) = world.app.schedule.find(subject, "payment.charge")
    assert (entry.handler, entry.attempt) == ("payment.charge", 2)
    return entry.id


def test_a_retry_runs_as_soon_as_it_is_hurried(world: World, subject: str) -> None:
    own = retry_of(world, subject)

    world.app.schedule.now(own)

    assert [note["attempt"] for note in world.done("charge", subject, times=2)] == [1, 2]
    world.done("thank", subject)
    world.settled()
    assert world.app.schedule.find(subject, "payment.charge") == world.letters(subject) == []


def test_a_dropped_retry_is_told_of_and_can_be_replayed(world: World, subject: str) -> None:
    own = retry_of(world, subject)

    letter = world.app.schedule.drop(own, reason="a test").letter

    (told,) = world.done("told", subject)
    assert (told["letter"], told["reason"]) == (letter.id, Reason.DROPPED)
    assert world.app.schedule.find(subject, "payment.charge") == []
    world.app.dead_letters.replay(letter.id)
    eventually(lambda: len(world.notes("charge", subject)) == 2, reason="the replay")
    world.settled()
    # It has all its attempts again: the first of them asks for another one in an hour.
    (entry,) = world.app.schedule.find(subject, "payment.charge")
    world.app.schedule.now(entry.id)
    world.done("charge", subject, times=3)
    world.done("thank", subject)


def test_a_delayed_event_is_announced_now_or_never(world: World, subject: str) -> None:
    world.app.publish(OrderPlaced(), subject=subject, delay=3600)
    world.app.publish(MealCooked(), subject=f"{subject}-meal", delay=3600)
    (order,), (meal,) = world.app.schedule.find(subject), world.app.schedule.find(f"{subject}-meal")

    world.app.schedule.now(order.id)
    assert world.app.schedule.drop(meal.id).entry.event.subject == f"{subject}-meal"

    world.done("thank", subject)
    assert world.app.schedule.find(f"{subject}-meal") == []


def test_what_announced_nothing_is_handled_again_in_the_same_story(world: World, subject: str) -> None:
    first = world.publish(OrderPlaced(behave="quietly"), subject)
    world.done("charged", subject)
    world.settled()
    assert world.notes("thank", subject) == []

    world.app.rerun("payment.charge", subject, data={"behave": ""}, reason="the fix is deployed")

    (thanked,) = world.done("thank", subject)
    assert (thanked["story"], thanked["cause"]) == (first.correlation_id, first.id)
    world.settled()
    assert len(world.notes("charged", subject)) == 2

    # The same ids: nobody thanks twice. Then with new ones.
    world.app.rerun("payment.charge", subject, data={"behave": ""})
    eventually(lambda: len(world.notes("charged", subject)) == 3, reason="the second run")
    world.settled()
    world.done("thank", subject)
    world.app.rerun("payment.charge", subject, data={"behave": ""}, new_key=True)
    world.done("thank", subject, times=2)
