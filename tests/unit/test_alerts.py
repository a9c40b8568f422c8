"""Alerts: the events that tell of dead letters, of pauses and of overdue stories. On a stage, so in made-up time."""

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from choreo import (
    Context,
    DeadLetter,
    DeadLetterRecorded,
    Envelope,
    Event,
    HandlerPaused,
    HandlerResumed,
    PermanentFailure,
    Retry,
    RetryLater,
    Service,
    Several,
    StoryOverdue,
)
from choreo.delivery.alert import paused, resumed
from choreo.delivery.notice import park
from choreo.errors import EnvelopeError
from choreo.events.message import Message
from choreo.events.metadata import ALERTED, LONGEST_VALUE, checked_meta
from choreo.events.naming import OWN_TYPES
from choreo.testing import stage as made
from tests.unit.events import NOON, OrderConfirmed, OrderPlaced, PaymentCharged, PaymentFailed, envelope
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice")


class OperatorPaged(Event):
    """An operator was paged."""


class PagerFailed(Event):
    """The pager did not answer."""


def failing(name: str = "payment", event: Any = OrderPlaced, error: Exception | None = None, **options: Any) -> Service:
    """A service whose only handler always fails."""
    app = service(name)

    @app.on(event, name="charge", retry=Retry(times=0), **options)
    def charge(order: Envelope) -> None:
        raise error or PermanentFailure("no such card")

    return app


def hearing(name: str, *topics: Any) -> tuple[Service, list[Envelope]]:
    """A service that keeps the events of these topics."""
    app, heard = service(name), list[Envelope]()

    @app.on(*topics)
    def keep(event: Envelope) -> None:
        heard.append(event)

    return app, heard


# -- the alert of a dead letter ----------------------------------------------------------------------------------------


def test_a_dead_letter_is_announced_once_in_the_story_of_its_event():
    platform = made(failing(), start=NOON)
    placed = platform.publish(ORDER, subject="ORD-1", meta={"tenant": "acme"})
    platform.run()
    platform.advance(days=1)

    (letter,), alert = platform.dead_letters, platform.announced(DeadLetterRecorded, subject="ORD-1").one()
    assert alert == DeadLetterRecorded(
        letter=letter.id,
        handler="payment.charge",
        reason="refused",
        error="PermanentFailure: no such card",
        attempts=1,
        events=["order.placed"],
        group=letter.group,
    )
    meta = alert.meta
    assert (meta.type, meta.source, meta.subject, meta.time) == ("dead_letter.recorded", "payment", "ORD-1", NOON)
    assert (meta.correlation_id, meta.causation_id) == (placed.correlation_id, placed.id)
    assert meta.extensions["tenant"] == "acme"


def test_a_handler_hears_it_in_any_service_by_its_type_and_by_a_pattern():
    pager, paged = hearing("pager", DeadLetterRecorded)
    archive, kept = hearing("archive", "#")
    platform = made(failing(), pager, archive)
    platform.publish(ORDER, subject="ORD-1")
    platform.run()

    assert [event.data["handler"] for event in paged] == ["payment.charge"]
    assert [event.type for event in kept] == ["order.placed", "dead_letter.recorded"]


def test_a_retry_is_no_dead_letter_and_the_last_attempt_is_one():
    app = failing(error=RetryLater(5))
    app.subscriptions[0] = replace(app.subscriptions[0], retry=Retry(times=3))
    platform = made(app, start=NOON)
    platform.publish(ORDER, subject="ORD-1")
    platform.run()
    assert platform.announced(DeadLetterRecorded) == []
    platform.advance(hours=1)

    assert platform.announced(DeadLetterRecorded).one().attempts == 4


def test_a_replay_that_fails_again_is_announced_again():
    platform = made(failing())
    with platform:
        platform.publish(ORDER, subject="ORD-1")
        platform.run()
        (first,) = platform.dead_letters
        app = next(iter(platform._runtimes))
        app.dead_letters.replay(first.id)
        platform.run()
        (second,) = platform.dead_letters

    letters = [alert.letter for alert in platform.announced(DeadLetterRecorded)]
    assert letters == [first.id, second.id]
    assert len({alert.meta.id for alert in platform.announced(DeadLetterRecorded)}) == 2


def test_that_of_a_loop_counts_its_hops_anew_so_that_its_handler_may_announce():
    app, pager = service("payment", choreo_max_hops=2), service("pager", choreo_max_hops=2)

    @app.on(OrderPlaced)
    def place_again(order: OrderPlaced) -> OrderPlaced:
        return order

    @pager.on(DeadLetterRecorded)
    def page(alert: DeadLetterRecorded) -> OperatorPaged:
        return OperatorPaged()

    platform = made(app, pager)
    platform.publish(ORDER, subject="ORD-1")
    platform.run()

    assert platform.announced(DeadLetterRecorded, subject="ORD-1").one().reason == "loop"
    assert platform.announced(OperatorPaged, subject="ORD-1").one().meta.hops == 1


def test_that_of_a_join_has_the_subject_of_its_first_part_and_the_last_one_as_its_cause():
    app = service("driver")

    @app.join(OrderConfirmed, PaymentCharged, within=timedelta(minutes=30))
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    platform = made(app, start=NOON)
    confirmed = platform.publish(OrderConfirmed(), subject="ORD-1")
    platform.advance(minutes=31)

    alert = platform.announced(DeadLetterRecorded).one()
    assert (alert.reason, alert.events, alert.meta.subject) == ("expired", ["order.confirmed"], "ORD-1")
    assert (alert.meta.causation_id, alert.meta.correlation_id) == (confirmed.id, confirmed.correlation_id)


def test_that_of_a_join_that_failed_and_its_dead_letter_handler_have_the_same_cause():
    app = service("driver", retry=Retry(times=0))

    @app.join(OrderConfirmed, PaymentCharged, within=timedelta(minutes=30))
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> None:
        raise ValueError("no driver")

    @app.dead_letter
    def call(letter: DeadLetter) -> OperatorPaged:
        return OperatorPaged()

    platform = made(app, start=NOON)
    platform.publish(OrderConfirmed(), subject="ORD-1")
    platform.advance(minutes=1)
    charged = platform.publish(PaymentCharged(), subject="ORD-1")
    platform.run()

    alert, paged = platform.announced(DeadLetterRecorded).one(), platform.announced(OperatorPaged).one()
    assert alert.events == ["order.confirmed", "payment.charged"]
    for meta in (alert.meta, paged.meta):
        assert (meta.causation_id, meta.correlation_id, meta.subject) == (charged.id, charged.correlation_id, "ORD-1")


def test_that_of_a_letter_without_an_event_begins_the_story_of_the_letter():
    app = failing()
    app.dead_letter(lambda _: OperatorPaged())
    stage = Stage(app)
    park(app.runtime, "payment.charge", Message("", "payment.charge", b"garbage"), EnvelopeError("no\nJSON"))
    stage.run()

    (letter,), alert = stage.dead_letters, stage.announced(DeadLetterRecorded).one()
    assert (alert.letter, alert.reason, alert.error, alert.events) == (letter.id, "unreadable", "no\\nJSON", [])
    assert (alert.meta.subject, alert.meta.correlation_id) == ("", letter.id)
    assert stage.announced(OperatorPaged).one().meta.correlation_id == letter.id


@pytest.mark.parametrize("reason", ["revoked", "undeclared"])
def test_dead_letters_that_no_handler_made_are_announced_too(reason: str):
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        raise RetryLater(60)

    stage = Stage(app)
    stage.deliver(ORDER, id="e-1")
    if reason == "undeclared":
        app.subscriptions.clear()
        stage.advance(seconds=61)
    else:
        from choreo.delivery.delivery import Delivery
        from choreo.delivery.revocation import Revocation

        delivery = Delivery(app.runtime, app.subscriptions[0], envelope(ORDER, id="e-2"))
        Revocation(delivery, "revoked by an operator").live()
        stage.run()

    alert = stage.announced(DeadLetterRecorded).one()
    assert (alert.reason, alert.letter) == (reason, stage.dead_letters[0].id)


def test_an_event_whose_alert_cannot_be_sent_still_becomes_a_dead_letter(caplog: pytest.LogCaptureFixture):
    stage = Stage(failing())
    odd = replace(envelope(ORDER), subject=json.loads('"\\ud800"'))
    park(stage.app.runtime, "payment.charge", Message("", "payment.charge", b"{}"), EnvelopeError("odd"), (odd,))
    stage.run()

    (letter,) = stage.dead_letters
    assert stage.announced(DeadLetterRecorded) == []
    assert f"dead letter {letter.id} is recorded, and its alert cannot be announced" in caplog.text


# -- never about themselves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [DeadLetterRecorded, "#", "dead_letter.#", "*.recorded"])
def test_a_handler_of_alerts_that_fails_makes_a_dead_letter_and_no_alert(topic: Any):
    platform = made(failing(), failing("pager", topic))
    platform.publish(PaymentFailed(), subject="ORD-1") if topic == "#" else platform.publish(ORDER, subject="ORD-1")
    platform.run()
    platform.advance(days=3)

    letters = [(letter.handler, letter.envelopes[0].type) for letter in platform.dead_letters]
    assert ("pager.charge", "dead_letter.recorded") in letters
    assert len(platform.announced(DeadLetterRecorded)) == 1
    assert len(letters) == 2


def test_two_services_that_fail_at_each_others_alerts_do_not_call_each_other_for_ever():
    platform = made(failing(), failing("pager", "#"), failing("archive", DeadLetterRecorded, error=ValueError("full")))
    platform.publish(ORDER, subject="ORD-1")
    platform.run()
    platform.advance(days=3)

    # Payment and the pager fail at the order. Of the two alerts each of the others makes a letter, and that is all.
    assert sorted(letter.handler for letter in platform.dead_letters) == [
        *["archive.charge"] * 2, "pager.charge", "pager.charge", "pager.charge", "payment.charge",
    ]  # fmt: skip
    assert sorted(alert.handler for alert in platform.announced(DeadLetterRecorded)) == [
        "pager.charge", "payment.charge",
    ]  # fmt: skip


def test_what_the_handler_of_an_alert_announces_is_alerted_about_once_per_handler():
    pager, gateway = service("pager"), failing("gateway", OperatorPaged)

    @pager.on(DeadLetterRecorded)
    def page(alert: DeadLetterRecorded) -> OperatorPaged:
        return OperatorPaged()

    platform = made(failing(), pager, gateway)
    platform.publish(ORDER, subject="ORD-1")
    platform.run()
    platform.advance(days=3)

    # The gateway fails at the page of payment's letter, and at the page of its own letter. Of the second there is none.
    assert [alert.handler for alert in platform.announced(DeadLetterRecorded)] == ["payment.charge", "gateway.charge"]
    assert [letter.handler for letter in platform.dead_letters] == ["payment.charge"] + ["gateway.charge"] * 2


def test_what_an_overdue_story_leads_to_is_alerted_about():
    support = failing("support", OperatorPaged)

    @support.on(StoryOverdue)
    def page(overdue: StoryOverdue) -> OperatorPaged:
        return OperatorPaged()

    support.story("delivery", begins=OrderPlaced, ends=PaymentCharged, within=timedelta(minutes=5))
    platform = made(support, start=NOON)
    platform.publish(ORDER, subject="ORD-1")
    platform.advance(minutes=10)

    assert platform.announced(DeadLetterRecorded, subject="ORD-1").one().handler == "support.charge"


def test_a_chain_of_handlers_that_has_no_room_is_not_alerted_about():
    stage = Stage(failing())
    stage.deliver(envelope(ORDER, extensions={ALERTED: "x" * (LONGEST_VALUE - 5)}))
    stage.run()

    assert len(stage.dead_letters) == 1
    assert stage.announced(DeadLetterRecorded) == []


@pytest.mark.parametrize("value", ["payment.charge", None])
def test_no_program_can_set_or_drop_the_mark_of_an_alert(value: str | None):
    with pytest.raises(ValueError, match="is an attribute of the event itself"):
        checked_meta({ALERTED: value})


def test_the_mark_takes_no_room_of_the_metadata_of_a_program():
    app, meta = service("pager"), {f"name{number}": number for number in range(16)}

    @app.on(OrderPlaced)
    def page(order: OrderPlaced, context: Context) -> OperatorPaged | None:
        context.announce(OperatorPaged(), meta=meta)

    stage = Stage(app)
    stage.deliver(envelope(ORDER, extensions={ALERTED: "payment.charge"}))
    stage.run()

    (paged,) = stage.told_by_services
    assert paged.extensions == meta | {ALERTED: "payment.charge"}


# -- nobody need hear them ---------------------------------------------------------------------------------------------


def test_an_alert_that_nobody_hears_is_no_unheard_event(caplog: pytest.LogCaptureFixture):
    stage = Stage(failing())
    stage.publish(ORDER, subject="ORD-1")
    stage.run()

    assert len(stage.announced(DeadLetterRecorded)) == 1
    assert stage.app.publisher.unheard == {}
    assert "nobody listens to dead_letter.recorded" not in caplog.text
    assert stage.store.backlog("payment.charge").total == 0


@pytest.mark.parametrize("topic", [DeadLetterRecorded, "#", None])
def test_the_trace_of_an_order_shows_its_alert_if_a_handler_hears_it(topic: Any):
    others = [hearing("pager", topic)[0]] if topic else []
    with made(failing(), *others) as platform:
        platform.publish(ORDER, subject="ORD-1")
        platform.run()
        (trace,) = next(iter(platform._runtimes)).observe.trace("ORD-1")

    lines = [(line.depth, line.step.handler if line.step else line.event.type) for line in trace.lines]
    alerted = [(2, "dead_letter.recorded"), (3, "pager.keep")] if topic else []
    of_the_order = [line for line in lines if line != (1, "pager.keep")]
    assert of_the_order == [(0, "order.placed"), (1, "payment.charge"), *alerted]


def test_each_alert_is_known_as_one():
    assert {
        alert.event_type for alert in (DeadLetterRecorded, HandlerPaused, HandlerResumed, StoryOverdue)
    } == OWN_TYPES


# -- a storm -----------------------------------------------------------------------------------------------------------


class Slack:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.posts = list[str]()
        self.post = self.posts.append


def documented() -> tuple[Service, Slack]:
    """The service of the page about alerts, whose Slack this is."""
    told = (Path(__file__).parents[2] / "docs" / "operations.md").read_text().partition("## Be told")[2]
    code = re.findall(r"```python\n(.*?)```", told.partition("\n## ")[0], re.DOTALL)
    slack, app = Slack(), service("pager")
    names = {"slack": slack, "Several": Several, "timedelta": timedelta}
    for block in code:
        exec(block.replace('Service("pager")', "pager"), names | {"pager": app}, names)
    return app, slack


def test_the_page_sends_each_alert_to_slack_and_makes_one_page_of_a_storm():
    pager, slack = documented()
    platform = made(failing(), pager, start=NOON)
    for number in range(230):
        platform.publish(ORDER, subject=f"ORD-{number}")
    platform.run()

    letters = {letter.subject: letter.id for letter in platform.dead_letters}
    assert {post for post in slack.posts if "(dead letter " in post} == {
        f"payment.charge could not handle {subject}: PermanentFailure: no such card (dead letter {letter})"
        for subject, letter in letters.items()
    }
    pages = [post for post in slack.posts if "(group " in post]
    assert [page.split()[0] for page in pages] == ["100", "100"]
    platform.advance(minutes=6)

    (last,) = [post for post in slack.posts if "(group " in post][2:]
    group = platform.announced(DeadLetterRecorded)[0].group
    assert last == f"30 dead letters of payment.charge, such as: PermanentFailure: no such card (group {group})"
    assert len(platform.announced(DeadLetterRecorded)) == len(letters) == 230


# -- pauses ------------------------------------------------------------------------------------------------------------


def test_the_alerts_of_a_pause_are_about_the_handler():
    stage = Stage(service("payment"), start=NOON)
    until = NOON + timedelta(minutes=30)
    for entry in (
        *paused(stage.app.runtime, "payment.charge", "p-1", reason="gateway down", by="breaker", until=until),
        *resumed(stage.app.runtime, "payment.charge", "p-1", by="time", delay=1800),
    ):
        stage.store.schedule("payment.dead_letters", entry)
    stage.run()

    pause = stage.announced(HandlerPaused).one()
    assert pause == HandlerPaused(handler="payment.charge", reason="gateway down", by="breaker", until=until)
    assert (pause.meta.source, pause.meta.subject, pause.meta.correlation_id) == (
        "payment", "payment.charge", pause.meta.id,
    )  # fmt: skip
    assert stage.announced(HandlerResumed) == []
    stage.advance(minutes=31)
    assert stage.announced(HandlerResumed).one().meta.time == until


def test_the_alert_of_a_pause_has_the_same_id_each_time():
    app = Stage(service("payment")).app

    (one,), (other,) = (resumed(app.runtime, "payment.charge", "p-1", delay=delay) for delay in (0.0, 60.0))

    assert one.id == other.id
    assert one.id != resumed(app.runtime, "payment.charge", "p-2")[0].id


def test_a_pause_that_an_alert_led_to_is_not_announced():
    app = Stage(service("payment")).app
    alert = envelope(DeadLetterRecorded(letter="l-1", handler="h", reason="refused", error=""))

    assert paused(app.runtime, "pager.page", "p-1", event=alert) == []
    assert resumed(app.runtime, "pager.page", "p-1", event=alert) == []
    assert len(paused(app.runtime, "pager.page", "p-1", event=envelope(ORDER))) == 1


def test_the_dead_letter_handler_and_the_alert_tell_of_the_same_letter():
    told = list[DeadLetter]()
    app = failing()
    app.dead_letter(told.append)
    platform = made(app)
    platform.publish(ORDER, subject="ORD-1")
    platform.run()

    assert [letter.id for letter in told] == [alert.letter for alert in platform.announced(DeadLetterRecorded)]
