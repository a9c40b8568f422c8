"""Alerts and the events of dead-letter handlers on real workers: each once, and none about an alert."""

import pytest

from tests.integration.conftest import World
from tests.integration.services.words import NobodyInformed, OrderPlaced
from tests.integration.test_unreadable import put
from tests.waiting import eventually


def test_a_dead_letter_is_announced_once_in_the_story_of_its_event(world: World, subject: str) -> None:
    placed = world.publish(OrderPlaced(behave="fail"), subject)

    (page,) = world.done("page", subject)

    assert (page["letter"], page["source"]) == (world.letter(subject).id, "payment")
    assert (page["cause"], page["story"]) == (placed.id, placed.correlation_id)
    world.settled()
    world.done("page", subject)


def test_a_handler_of_alerts_that_fails_makes_a_dead_letter_and_no_alert(world: World, subject: str) -> None:
    subject = f"{subject}-unpaged"
    world.publish(OrderPlaced(behave="permanent"), subject)

    eventually(lambda: len(world.letters(subject)) == 2, reason="a letter of payment, and one of the pager")
    world.settled()

    handlers = sorted(letter.handler for letter in world.letters(subject))
    assert handlers == ["loyalty.page", "payment.charge"]
    world.done("page", subject)


def test_a_letter_without_a_readable_event_has_an_alert_and_a_story_of_its_own(world: World) -> None:
    before = {letter.id for letter in world.app.dead_letters}
    put(world, "payment.charge", b"garbage", {}, "application/json", "utf-8")

    def own() -> list[str]:
        return [letter.id for letter in world.app.dead_letters if letter.id not in before and not letter.envelopes]

    eventually(own, reason="the dead letter of the garbage")
    (letter,) = own()
    eventually(lambda: [page for page in world.notes("page") if page["letter"] == letter], reason="its alert")
    eventually(lambda: [call for call in world.notes("answer") if call["letter"] == letter], reason="its call")
    world.settled()
    (page,) = [page for page in world.notes("page") if page["letter"] == letter]
    (called,) = [call for call in world.notes("answer") if call["letter"] == letter]
    assert page["story"] == called["story"] == letter
    assert page["subject"] == called["subject"] == ""


@pytest.mark.parametrize("suffix", ["", "-unreachable"])
def test_what_a_dead_letter_handler_returns_is_announced_once(world: World, subject: str, suffix: str) -> None:
    subject = f"{subject}{suffix}"
    placed = world.publish(OrderPlaced(behave="permanent"), subject)

    (called,) = world.done("answer", subject)

    assert (called["cause"], called["story"]) == (placed.id, placed.correlation_id)
    assert called["letter"] == world.letter(subject).id
    world.settled()
    world.done("answer", subject)
    world.done("told", subject, times=3 if suffix else 1)


def test_an_alert_that_no_handler_hears_counts_as_heard(make_world, world: World) -> None:
    """It needs a platform of its own, in which no service hears alerts."""
    lonely = make_world(world.broker, "payment", lane=world.app.conf.choreo_fast_lane)
    lonely.publish(OrderPlaced(behave="permanent"), "ORD-1")
    lonely.publish(NobodyInformed(), "ORD-1")
    lonely.done("told", "ORD-1")
    lonely.settled()

    assert len(lonely.letters("ORD-1")) == 1
    eventually(lambda: "nobody.informed" in lonely.app.runtime.store.unheard(), reason="the count of the other event")
    eventually(lambda: "operator.called" in lonely.app.runtime.store.unheard(), reason="the count of the call")
    assert "dead_letter.recorded" not in lonely.app.runtime.store.unheard()
    log = lonely.platform.log("payment").read_text()
    assert "nobody listens to operator.called" in log
    assert "dead_letter.recorded" not in log
