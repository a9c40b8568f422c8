"""Messages that wait for a handler which the next version of its service does not declare."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from choreo import DeadLetter, Envelope, Event, Reason, Retry, RetryLater, Service, Terms
from choreo.delivery.signals import FIRED, signal
from choreo.delivery.undeclared_letters import park_undeclared
from choreo.errors import DeadLetterError
from choreo.events.message import Message
from choreo.events.naming import OWN_TYPES
from choreo.store import Scheduled
from tests.unit.events import OrderConfirmed, OrderPlaced, PaymentCharged, envelope
from tests.unit.stage import Stage, service

ORDER = envelope(OrderPlaced(customer_id="alice"), id="o-1")
CONFIRMED = envelope(OrderConfirmed(), id="c-1")
CHARGED = envelope(PaymentCharged(), id="p-1")
WITHIN = timedelta(minutes=30)


class ReminderSent(Event):
    pass


def shop(seen: list[str]) -> Service:
    """The next version of the service: it has one handler, with a new name."""
    app = service("shop")

    @app.on("#", name="all_of_it")
    def hear(event: Envelope) -> None:
        if event.type not in OWN_TYPES:
            seen.append(event.id)

    return app


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def deploy(seen: list[str]) -> Callable[[Stage], None]:
    """Let the next version take the place of the service on a stage."""

    def deploy(stage: Stage) -> None:
        stage.app.subscriptions[:] = shop(seen).subscriptions

    return deploy


def one_letter(stage: Stage, handler: str) -> DeadLetter:
    (letter,) = stage.dead_letters
    assert (letter.handler, letter.reason) == (handler, Reason.UNDECLARED)
    assert letter.error == f"no worker of shop declares {handler} any more"
    return letter


def test_a_retry_becomes_a_dead_letter_and_goes_to_the_new_name(deploy, seen, caplog):
    app = service("shop")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        raise RetryLater(60)

    stage = Stage(app)
    stage.deliver(ORDER)

    deploy(stage)
    stage.pass_time(61)

    letter = one_letter(stage, "shop.charge")
    assert (letter.envelopes, letter.attempts) == ((ORDER,), 1)
    assert f"dead letter {letter.id}: shop.charge could not handle order.placed ORD-1 (undeclared" in caplog.text
    assert stage.store.backlog("shop.charge").total == 0
    with pytest.raises(DeadLetterError, match=r"No worker of shop declares shop.charge any more"):
        stage.app.dead_letters.replay(letter.id)
    stage.app.dead_letters.replay(letter.id, to="shop.all_of_it")
    stage.run()
    stage.pass_time(1)
    assert seen == ["o-1"]


@pytest.mark.parametrize("junk", ["many", [1], True, -1, 10**9, 1.5])
def test_a_retry_whose_number_is_junk_becomes_a_dead_letter_that_names_it(deploy, seen, junk):
    app = service("shop")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    stage = Stage(app)
    odd = Message.carrying(ORDER, exchange="", routing_key="shop.charge")
    odd.headers["retries"] = junk
    stage.store.schedule("shop.charge", Scheduled("retry:odd", odd, 30))

    deploy(stage)
    stage.store.register(["shop.charge"])
    stage.pass_time(31)

    (letter,) = stage.dead_letters
    assert (letter.envelopes, letter.reason, letter.attempts) == ((ORDER,), Reason.UNDECLARED, 0)
    assert f"its header retries is {junk!r}, not a number of attempts" in letter.error
    assert stage.store.backlog("shop.charge").total == 0
    stage.app.dead_letters.replay(letter.id, to="shop.all_of_it")
    stage.pass_time(1)
    assert seen == ["o-1"]


@pytest.mark.parametrize("how", ["incomplete", "failed", "fired"])
def test_a_pending_join_becomes_a_dead_letter_with_all_its_parts(deploy, seen, how):
    app = service("shop")

    @app.join(OrderConfirmed, PaymentCharged, within=WITHIN, retry=Retry(times=3))
    def ship(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> None:
        raise RetryLater(60)

    stage = Stage(app)
    parts = [CONFIRMED, CHARGED] if how == "failed" else [CONFIRMED]
    for part in parts:
        stage.deliver(part)
    if how == "fired":
        stage.app.joins.fire("ORD-1")

    deploy(stage)
    stage.pass_time(WITHIN.total_seconds() + 1)

    letter = one_letter(stage, "shop.ship")
    assert list(letter.envelopes) == parts
    assert (letter.unit, list(stage.app.joins)) == ("join:ORD-1", [])
    stage.app.dead_letters.replay(letter.id, to="shop.all_of_it")
    stage.pass_time(1)
    assert seen == [part.id for part in parts]


def test_the_events_that_the_handler_had_announced_leave(deploy, seen):
    app = service("shop")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> ReminderSent:
        app.publish(ReminderSent(), delay=60)
        return ReminderSent()

    stage = Stage(app)
    stage.deliver(ORDER)

    deploy(stage)
    stage.pass_time(61)

    assert len(seen) == 1, "the delayed one"
    assert stage.dead_letters == []


@pytest.mark.parametrize("body", [b"[[5], {}, {}]", b"[" * 100_000], ids=["no event", "too deep"])
def test_a_message_that_cannot_be_read_is_kept_too(body):
    stage = Stage(shop([]))
    stage.store.register(["shop.charge"])
    stage.store.schedule("shop.charge", Scheduled("retry:1", Message("", "shop.charge", body), 0))

    stage.clock.send_due(["shop.charge"])

    (letter,) = stage.dead_letters
    assert (letter.handler, letter.reason) == ("shop.charge", Reason.UNREADABLE)
    assert "no worker of shop declares shop.charge any more, and its message cannot be read" in letter.error
    stage.clock.send_due(["shop.charge"])
    assert stage.store.backlog("shop.charge").total == 0


def test_a_signal_to_a_join_of_which_nothing_is_left_is_dropped():
    stage = Stage(shop([]))
    message = signal(FIRED, handler="shop.ship", key="ORD-1", source="shop", queue="shop.ship", now=0.0)
    stage.store.schedule("shop.ship", Scheduled("fire:1", message))

    park_undeclared(stage.app.runtime, "shop.ship", "fire:1", message)

    assert stage.dead_letters == []
    assert stage.store.backlog("shop.ship").total == 0


# -- rounds -----------------------------------------------------------------------------------------------------------

#: Longer than an event is held back that a pending round has no place for.
HELD = Terms().lease.total_seconds() + 1
NEXT = envelope(OrderConfirmed(), id="c-2")
CANCELLED = envelope(OrderPlaced(customer_id="alice"), id="o-2")


def shipping(shipped: list[list[str]]) -> Service:
    """A service with a join with rounds."""
    app = service("shop")

    @app.join(OrderConfirmed, PaymentCharged, unless=OrderPlaced, within=WITHIN, rounds=True)
    def ship(confirmed: OrderConfirmed, charged: PaymentCharged) -> None:
        shipped.append([confirmed.meta.id, charged.meta.id])

    return app


@pytest.fixture
def shipped() -> list[list[str]]:
    return []


@pytest.mark.parametrize("order", ["the held event first", "the deadline first"])
def test_an_event_that_was_held_for_the_next_round_is_kept(deploy, seen, shipped, order):
    stage = Stage(shipping(shipped))
    before = list(stage.app.subscriptions)
    stage.deliver(CONFIRMED)
    if order == "the deadline first":
        stage.pass_time(WITHIN.total_seconds() - 1)
    stage.deliver(NEXT)

    deploy(stage)
    stage.pass_time(WITHIN.total_seconds() + HELD)

    kept = {letter.envelopes: letter for letter in stage.dead_letters}
    assert kept.keys() == {(CONFIRMED,), (NEXT,)}
    assert (kept[(CONFIRMED,)].unit, kept[(NEXT,)].unit) == ("join:ORD-1", None)
    assert stage.store.backlog("shop.ship").total == 0
    stage.app.subscriptions[:] = before
    stage.run()
    stage.app.dead_letters.replay(kept[(NEXT,)].id)
    stage.pass_time(1)
    stage.deliver(CHARGED, "shop.ship")
    assert shipped == [["c-2", "p-1"]]


def test_a_cancellation_that_waits_for_a_worker_is_kept_beside_the_dead_letter_of_the_join(deploy, shipped):
    stage = Stage(shipping(shipped))
    task = stage.app.tasks["shop.ship"]
    stage.deliver(CONFIRMED)
    task.make_delivery(CHARGED, 1).begin()
    stage.deliver(CANCELLED)

    deploy(stage)
    stage.pass_time(WITHIN.total_seconds() + HELD)

    kept = {letter.envelopes for letter in stage.dead_letters}
    assert kept == {(CANCELLED,), (CONFIRMED, CHARGED)}


def test_the_events_of_a_buried_round_begin_no_other_when_the_handler_is_back(deploy, shipped):
    stage = Stage(shipping(shipped))
    before = list(stage.app.subscriptions)
    stage.deliver(CONFIRMED)
    deploy(stage)
    stage.pass_time(WITHIN.total_seconds() + 1)
    one_letter(stage, "shop.ship")

    stage.app.subscriptions[:] = before
    stage.run()
    stage.deliver(CONFIRMED, "shop.ship")

    assert list(stage.app.joins) == []
