"""What fails for good is kept with all that is known, told to the service, and can go back to its handler."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from choreo.errors import DeadLetterError
from tests.integration.conftest import World
from tests.integration.services.words import OrderPlaced
from tests.nursery import run_choreo
from tests.waiting import eventually


def test_used_up_attempts_end_as_a_dead_letter_that_tells_all(world: World, subject):
    placed = world.publish(OrderPlaced(behave="fail"), subject)

    letter = world.letter(subject)

    assert (letter.service, letter.handler, letter.reason) == ("payment", "payment.charge", "exhausted")
    assert letter.error == "ValueError: no money"
    assert 'raise ValueError("no money")' in letter.traceback
    assert letter.attempts == 3
    assert list(letter.envelopes) == [placed]
    assert datetime.now(UTC) - letter.failed_at < timedelta(minutes=1)
    world.done("charge", subject, times=3)
    assert world.notes("charged", subject) == []


@pytest.mark.parametrize(
    ("behave", "error"),
    [("refuse", "CardRefused: 4242: stolen"), ("permanent", "PermanentFailure: no such account")],
)
def test_an_error_that_is_never_retried_ends_as_a_dead_letter_at_once(world: World, subject, behave, error):
    world.publish(OrderPlaced(behave=behave), subject)

    letter = world.letter(subject)

    assert (letter.reason, letter.attempts) == ("refused", 1)
    assert letter.error == error
    world.done("charge", subject)


def test_the_services_dead_letter_handler_runs_on_its_own_queue(world: World, subject):
    world.publish(OrderPlaced(behave="permanent"), subject)

    (told,) = world.done("told", subject)

    assert told["task"] == "payment.dead_letters"
    assert told["queue"] == f"{world.namespace}.payment.dead_letters"
    assert told["letter"] == world.letter(subject).id
    assert told["reason"] == "refused"


def test_without_a_dead_letter_handler_the_log_tells_of_it(world: World, subject):
    world.publish(OrderPlaced(behave="fail at loyalty"), subject)

    letter = world.letter(subject)

    assert letter.handler == "loyalty.award"
    log = world.platform.log("loyalty")
    eventually(
        lambda: f"dead letter {letter.id}: loyalty.award could not handle order.placed {subject}" in log.read_text()
    )
    world.done("charged", subject)


def test_a_replay_goes_to_the_handler_that_failed_and_to_nobody_else(world: World, subject):
    world.publish(OrderPlaced(behave="fail until replayed"), subject)
    letter = world.letter(subject)

    world.app.dead_letters.replay(letter.id)

    world.done("charged", subject)
    world.done("charge", subject, times=4)
    world.done("thank", subject)
    world.settled()
    world.done("award", subject)
    world.done("count", subject, times=2)
    assert world.letters(subject) == []


def test_the_command_shows_and_replays_what_the_worker_could_not_do(world: World, subject):
    world.publish(OrderPlaced(behave="fail until replayed"), subject)
    letter = world.letter(subject)

    listed = choreo(world, "dead-letters", "list", "payment", "--limit", "0")
    shown = choreo(world, "dead-letters", "show", letter.id)
    replayed = choreo(world, "dead-letters", "replay", letter.id)

    assert letter.id in listed
    assert "error:       ValueError: no money\n" in shown
    assert replayed == f"{letter.id}: order.placed {subject} goes to payment.charge again.\n"
    world.done("charged", subject)
    world.done("charge", subject, times=4)
    assert world.letters(subject) == []


def choreo(world: World, *arguments: str) -> str:
    """What the command says in a process of its own."""
    urls = ["--broker", world.broker_url, "--store", world.store_url]
    code, said = run_choreo(*arguments, *urls, environment=os.environ | {"CHOREO_NAMESPACE": world.namespace})
    assert code == 0, said
    return said


def test_a_replay_that_fails_again_is_a_new_dead_letter(world: World, subject):
    world.publish(OrderPlaced(behave="permanent"), subject)
    first = world.letter(subject)

    world.app.dead_letters.replay(first.id)

    eventually(lambda: [letter.id for letter in world.letters(subject) if letter.id != first.id])
    assert world.letter(subject).attempts == 1
    world.done("charge", subject, times=2)


def test_a_discarded_dead_letter_is_gone(world: World, subject):
    world.publish(OrderPlaced(behave="permanent"), subject)
    letter = world.letter(subject)

    world.app.dead_letters.discard(letter.id)

    with pytest.raises(DeadLetterError):
        world.app.dead_letters.replay(letter.id)
    assert world.letters(subject) == []


def test_an_event_whose_worker_process_is_killed_is_handled_again(world: World, subject):
    world.publish(OrderPlaced(behave="kill once"), subject)

    world.done("charged", subject)

    world.done("charge", subject, times=2)
    world.done("thank", subject)
    assert world.platform.exited == {}


def test_an_event_that_kills_every_process_it_meets_is_set_aside(world: World, subject):
    world.publish(OrderPlaced(behave="kill"), subject)
    world.publish(OrderPlaced(), f"{subject}-good")

    world.done("charged", f"{subject}-good")
    letter = world.letter(subject)

    assert letter.reason == "poison"
    assert letter.handler == "payment.charge"
    world.done("charge", subject, times=2)
    world.done("told", subject)
    assert world.platform.exited == {}
