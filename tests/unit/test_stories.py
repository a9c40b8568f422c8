"""Stories: an event is to be followed by another one in time. On a stage, so in made-up time."""

import logging
from datetime import timedelta

import pytest

from choreo import Context, DeclarationError, Envelope, Event, Retry, Service, StoryError, StoryOverdue, Terms
from choreo.delivery.kinds import delivery_to
from choreo.delivery.story import KEPT
from tests.unit.events import (
    NOON,
    DriverAssigned,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PaymentCharged,
    PaymentFailed,
    envelope,
)
from tests.unit.stage import Stage, service

WITHIN = timedelta(minutes=30)
PLACED = OrderPlaced(customer_id="alice")
NAME = "shop.delivery"
NOTHING = {"ended_in_time": 0, "ended_late": 0, "overdue": 0, "abandoned": 0, "unbegun": 0}


class ParcelLost(Event):
    order_id: str | None = None


class ParcelFound(Event):
    parcel: str


def declare(app: Service, **changes) -> Service:
    options = {
        "begins": OrderPlaced,
        "steps": [OrderConfirmed, PaymentCharged],
        "ends": [DriverAssigned, OrderRejected, PaymentFailed],
        "within": WITHIN,
    }
    app.story("delivery", **options | changes)
    return app


@pytest.fixture
def app() -> Service:
    return declare(service("shop"))


@pytest.fixture
def stage(app) -> Stage:
    return Stage(app, start=NOON)


def tell(stage: Stage, *events: Event, subject: str = "ORD-1") -> None:
    """Announce these events a minute apart."""
    for event in events:
        stage.publish(event, subject=subject)
        stage.advance(minutes=1)


def counted(stage: Stage, **counts: int) -> bool:
    assert stage.app.stories.counts("delivery") == NOTHING | counts
    return True


# -- in time -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [DriverAssigned(), OrderRejected(), PaymentFailed()], ids=lambda end: end.event_type)
def test_a_story_that_ends_in_time_leaves_nothing_but_a_count(stage, end):
    tell(stage, PLACED, OrderConfirmed(), end)
    stage.advance(days=40)

    assert stage.stories == stage.joins == stage.dead_letters == []
    assert stage.announced(StoryOverdue) == []
    assert counted(stage, ended_in_time=1)
    assert stage.store.backlog(NAME).total == 0


@pytest.mark.parametrize(
    "order",
    [
        (DriverAssigned(), PLACED),
        (OrderConfirmed(), DriverAssigned(), PLACED),
        (DriverAssigned(), OrderConfirmed(), PLACED, PaymentCharged()),
    ],
)
def test_the_order_of_arrival_does_not_matter(stage, order):
    tell(stage, *order)
    stage.advance(hours=1)

    assert stage.announced(StoryOverdue) == stage.stories == []
    assert counted(stage, ended_in_time=1)


def test_events_that_come_twice_change_nothing(stage, caplog):
    placed, charged = stage.publish(PLACED, subject="ORD-1"), stage.publish(PaymentCharged(), subject="ORD-1")
    stage.publish(placed)
    stage.publish(charged)
    stage.publish(PaymentCharged(), subject="ORD-1")
    stage.run()

    (story,) = stage.stories
    assert [one.envelope.id for one in story.arrived] == [placed.id, charged.id]

    assigned = stage.publish(DriverAssigned(), subject="ORD-1")
    stage.publish(assigned)
    stage.publish(DriverAssigned(), subject="ORD-1")
    stage.publish(placed)
    stage.advance(hours=1)

    assert stage.stories == []
    assert counted(stage, ended_in_time=1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and record.name != "celery"]


def test_each_key_has_a_story_of_its_own(stage):
    tell(stage, PLACED, OrderConfirmed(), subject="ORD-1")
    tell(stage, PLACED, subject="ORD-2")
    tell(stage, DriverAssigned(), subject="ORD-1")

    assert [(story.key, story.step, story.steps) for story in stage.stories] == [("ORD-2", 1, 4)]


# -- overdue -----------------------------------------------------------------------------------------------------


def test_a_story_without_an_end_is_announced_as_overdue_once(stage):
    placed = stage.publish(PLACED, subject="ORD-1")
    stage.advance(minutes=1)
    charged = stage.publish(PaymentCharged(), subject="ORD-1")
    stage.advance(minutes=28)
    assert stage.announced(StoryOverdue) == []

    stage.advance(days=3)

    overdue = stage.announced(StoryOverdue).one()
    assert overdue == StoryOverdue(
        story="delivery",
        key="ORD-1",
        since=NOON,
        arrived=["order.placed", "payment.charged"],
        missing=["order.confirmed"],
        ends=["driver.assigned", "order.rejected", "payment.failed"],
    )
    assert (overdue.meta.type, overdue.meta.source, overdue.meta.subject) == ("story.overdue", "shop", "ORD-1")
    assert overdue.meta.time == NOON + WITHIN
    assert (overdue.meta.causation_id, overdue.meta.correlation_id) == (charged.id, charged.correlation_id)
    assert placed.id != charged.id
    assert counted(stage, overdue=1)


def test_an_overdue_story_stays_until_it_ends_and_then_it_ended_late(stage):
    tell(stage, PLACED)
    stage.advance(minutes=32)
    (story,) = stage.stories
    assert (story.overdue, story.overdue_by, story.until) == (True, timedelta(minutes=3), NOON + WITHIN)

    tell(stage, OrderConfirmed(), PaymentCharged())
    (story,) = stage.stories
    assert (story.step, story.missing, story.waits_for) == (
        3, (), "driver.assigned or order.rejected or payment.failed",
    )  # fmt: skip

    tell(stage, DriverAssigned())
    assert stage.stories == []
    assert stage.store.backlog(NAME).total == 0
    stage.advance(days=40)

    assert len(stage.announced(StoryOverdue)) == 1
    assert counted(stage, overdue=1, ended_late=1)


def test_it_is_overdue_since_its_deadline_also_if_no_worker_was_there_to_notice(stage):
    tell(stage, PLACED)
    stage.wait(timedelta(hours=2).total_seconds())
    assert [story.overdue for story in stage.stories] == [True]

    stage.run()

    (story,) = stage.stories
    assert (story.overdue_by, len(stage.announced(StoryOverdue))) == (timedelta(minutes=91), 1)


def test_a_handler_can_react_to_it():
    app, told = declare(service("shop")), []

    @app.on(StoryOverdue)
    def call_the_customer(overdue: StoryOverdue, context: Context) -> None:
        told.append((overdue.story, overdue.key, context.subject))

    stage = Stage(app, start=NOON)
    tell(stage, PLACED)
    stage.advance(hours=1)

    assert told == [("delivery", "ORD-1", "ORD-1")]


def test_it_is_logged_once_and_nobody_need_listen(stage, caplog):
    tell(stage, PLACED, OrderConfirmed())
    stage.advance(days=1)

    assert not [record for record in caplog.records if "nobody listens" in record.getMessage()]
    assert not stage.publisher.unheard["story.overdue"]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "choreo.delivery.story"]
    assert line.startswith("shop.delivery ORD-1 is overdue: it has not ended within 0:30:00, and waits for payment.")


def test_the_deadline_counts_from_the_first_event_that_arrives(stage):
    tell(stage, OrderConfirmed(), PLACED)
    (story,) = stage.stories

    assert (story.since, story.until) == (NOON + timedelta(minutes=1), NOON + WITHIN)


def test_the_deadline_announces_once_also_if_it_is_sent_again(stage):
    tell(stage, PLACED)
    stage.advance(minutes=30)
    signal = stage.clock.deadline_signal(NAME, "deadline:join:ORD-1", NOON.timestamp())
    stage.publisher.send([signal, signal])
    stage.run()

    assert len(stage.announced(StoryOverdue)) == 1
    assert counted(stage, overdue=1)


def test_an_event_that_comes_again_after_the_retention_announces_nothing():
    stage = Stage(declare(service("shop", terms=Terms(retention=timedelta(hours=1)))), start=NOON)
    placed = stage.publish(PLACED, subject="ORD-1")
    stage.advance(days=2)
    stage.publish(placed)
    stage.advance(days=2)

    assert len(stage.announced(StoryOverdue)) == 1
    assert [story.overdue for story in stage.stories] == [True]


def test_after_the_retention_the_same_key_begins_anew():
    stage = Stage(declare(service("shop", terms=Terms(retention=timedelta(hours=1)))), start=NOON)
    tell(stage, PLACED, DriverAssigned(), PLACED)
    assert stage.stories == []

    stage.advance(hours=2)
    tell(stage, PLACED)

    assert [story.key for story in stage.stories] == ["ORD-1"]


def test_the_times_of_the_events_tell_whether_it_ended_in_time(stage):
    late = timedelta(minutes=31)
    stage.deliver(envelope(PLACED, id="1"), NAME)
    stage.deliver(envelope(DriverAssigned(), id="2", time=NOON + late), NAME)
    stage.deliver(envelope(PLACED, id="3", subject="ORD-2"), NAME)
    stage.wait(late.total_seconds())
    stage.deliver(envelope(DriverAssigned(), id="4", subject="ORD-2", time=NOON + WITHIN), NAME)

    assert counted(stage, ended_late=1, ended_in_time=1)


def test_an_overdue_story_is_not_kept_for_ever(stage):
    tell(stage, PLACED)
    stage.advance(KEPT - timedelta(hours=1))
    assert len(stage.stories) == 1

    stage.advance(hours=3)

    assert stage.stories == stage.dead_letters == []
    assert counted(stage, overdue=1, abandoned=1)
    assert stage.store.backlog(NAME).total == 0


def test_events_of_a_story_that_never_began_are_forgotten_in_silence(stage):
    tell(stage, OrderConfirmed(), DriverAssigned())
    assert stage.stories == []
    (unbegun,) = stage.app.stories.find("ORD-1")
    assert (unbegun.since, unbegun.overdue) == (None, False)

    stage.advance(hours=1)
    tell(stage, PLACED)
    stage.advance(hours=1)

    assert stage.announced(StoryOverdue) == stage.stories == stage.app.stories.find("ORD-1") == []
    assert counted(stage, unbegun=1)


def test_what_happened_on_a_stage_tells_of_pending_stories(stage):
    tell(stage, PLACED, subject="ORD-1")
    tell(stage, PLACED, subject="ORD-2")
    assert (
        "  pending stories\n    shop.delivery ORD-1 step 1 of 4, waits for order.confirmed, payment.charged, until "
        in (stage.story)
    )

    stage.advance(hours=1)

    with pytest.raises(AssertionError) as error:
        stage.announced(DriverAssigned, subject="ORD-2").one()
    assert "shop.delivery ORD-2 step 1 of 4, waits for order.confirmed, payment.charged, overdue since 12:31:00" in str(
        error.value
    )
    assert "ORD-1" not in str(error.value)


# -- the key ------------------------------------------------------------------------------------------------------


def test_a_field_can_be_the_key():
    app = service("shop")
    app.story(
        "search", begins=ParcelLost, ends=ParcelFound, within=WITHIN, by={ParcelLost: "order_id", ParcelFound: "parcel"}
    )
    stage = Stage(app, start=NOON)
    tell(stage, ParcelLost(order_id="P-1"), ParcelLost(order_id="P-2"), ParcelFound(parcel="P-1"), subject="depot")
    stage.advance(hours=1)

    overdue = stage.announced(StoryOverdue).one()
    assert (overdue.key, overdue.meta.subject) == ("P-2", "depot")


def test_an_event_without_a_key_is_ignored_with_one_warning(caplog):
    app = service("shop")
    app.story(
        "search", begins=ParcelLost, ends=ParcelFound, within=WITHIN, by={ParcelLost: "order_id", ParcelFound: None}
    )
    stage = Stage(app, start=NOON)
    tell(stage, ParcelLost(), ParcelLost())

    assert stage.dead_letters == stage.stories == []
    assert not delivery_to(stage.app.runtime, app.subscriptions[0], envelope(ParcelLost()), 1).is_part
    assert stage.store.backlog("shop.search").total == 0
    (line,) = [record.getMessage() for record in caplog.records if record.name == "choreo.delivery.story"]
    assert line.startswith("order_id of parcel.lost ORD-1 is None")
    assert "shop.search has no key for it, and ignores it" in line


# -- a new declaration ----------------------------------------------------------------------------------------------


def redeclared(stage: Stage, **changes) -> None:
    stage.app.subscriptions[:] = []
    for subscription in declare(service("shop"), **changes).subscriptions:
        stage.app._subscribe(subscription)
    stage._look_at_declarations()


def test_a_story_ends_by_its_declaration_of_the_day_at_its_deadline_at_the_latest(stage):
    tell(stage, PLACED, PaymentCharged())
    redeclared(stage, steps=[OrderConfirmed], ends=[PaymentCharged, DriverAssigned])
    stage.advance(hours=1)

    assert stage.announced(StoryOverdue) == stage.stories == []
    assert counted(stage, ended_in_time=1)


def test_an_end_that_is_none_any_more_ends_the_story_that_it_had_come_to(stage):
    tell(stage, DriverAssigned())
    redeclared(stage, ends=[OrderRejected])
    tell(stage, PLACED)
    stage.advance(hours=1)

    assert stage.announced(StoryOverdue) == stage.stories == []
    assert counted(stage, ended_in_time=1)


def test_the_end_of_an_abandoned_story_does_nothing_to_a_join_that_has_its_name(stage):
    tell(stage, PLACED)
    stage.advance(hours=1)
    stage.app.subscriptions[:] = []
    called = []

    @stage.app.join(OrderPlaced, DriverAssigned, name="delivery", within=timedelta(days=60))
    def assign(placed: Envelope, assigned: Envelope) -> None:
        called.append(placed.subject)

    stage._look_at_declarations()
    stage.advance(days=40)
    assert (called, stage.dead_letters, len(stage.joins)) == ([], [], 1)

    tell(stage, DriverAssigned())
    assert called == ["ORD-1"]


def test_a_story_whose_name_a_handler_has_taken_leaves_no_dead_letters(stage):
    tell(stage, PLACED)
    tell(stage, PLACED, subject="ORD-2")
    stage.advance(minutes=29)
    stage.app.subscriptions[:] = []

    @stage.app.on(DriverAssigned, name="delivery")
    def note(assigned: DriverAssigned) -> None: ...

    stage._look_at_declarations()
    stage.advance(days=40)

    assert (stage.stories, stage.dead_letters) == ([], [])
    assert stage.store.backlog(NAME).total == 0


def test_a_type_that_was_removed_is_shown_as_one_that_does_not_count(stage):
    tell(stage, PLACED, PaymentCharged())
    redeclared(stage, steps=[OrderConfirmed])

    (story,) = stage.stories
    assert [(one.envelope.type, one.counts) for one in story.arrived] == [
        ("order.placed", True), ("payment.charged", False),
    ]  # fmt: skip
    assert (story.step, story.steps) == (1, 3)


def test_a_story_keeps_its_deadline_when_the_time_changes(stage):
    tell(stage, PLACED)
    redeclared(stage, within=timedelta(days=2))
    stage.advance(minutes=30)

    assert len(stage.announced(StoryOverdue)) == 1


def test_a_story_that_was_removed_leaves_no_dead_letters():
    app = declare(service("shop"))

    @app.on(OrderPlaced)
    def pack(order: OrderPlaced) -> None: ...

    stage = Stage(app, start=NOON)
    tell(stage, PLACED, subject="ORD-1")
    tell(stage, PLACED, subject="ORD-2")
    stage.advance(minutes=30)
    tell(stage, PLACED, subject="ORD-3")
    app.subscriptions[:] = [known for known in app.subscriptions if known.name != NAME]

    stage.advance(days=31)

    assert stage.stories == stage.dead_letters == []
    assert stage.store.backlog(NAME).total == 0


# -- by hand --------------------------------------------------------------------------------------------------------


def test_a_story_is_found_by_its_key_and_its_name(stage):
    tell(stage, PLACED)
    stories = stage.app.stories

    assert stories.handlers == stories.named("delivery") == stories.named("shop") == stories.named() == [NAME]
    assert stories.get("ORD-1").handler == stories.get("ORD-1", "delivery").handler == NAME
    assert [story.key for story in stories.of(NAME)] == ["ORD-1"]
    assert stories.find("ORD-2") == []
    with pytest.raises(StoryError, match=r"'ORD-2' has no pending story: it has ended, was forgotten or never began"):
        stories.get("ORD-2")
    with pytest.raises(StoryError, match=r"No story 'nosuch' is known. Known are: shop\.delivery"):
        stories.get("ORD-1", "nosuch")
    assert (stage.app.joins.handlers, list(stage.app.joins)) == ([], [])


def test_a_story_can_be_forgotten(stage):
    tell(stage, PLACED)
    stage.advance(hours=1)

    stage.app.stories.forget("ORD-1", "a test order")
    tell(stage, OrderConfirmed(), DriverAssigned())
    stage.advance(days=31)

    assert stage.stories == stage.dead_letters == []
    assert counted(stage, overdue=1)
    assert stage.store.backlog(NAME).total == 0


def test_overdue_stories_come_first_and_a_page_at_a_time(stage):
    for number in range(5):
        tell(stage, PLACED, subject=f"ORD-{number}")
    stage.advance(minutes=27)

    page = stage.app.stories.page(NAME, 3)
    assert [story.overdue for story in page.stories] == [True, True, True]
    rest = stage.app.stories.page(NAME, 3, page.after)
    assert [(story.key, story.overdue) for story in rest.stories] == [("ORD-3", False), ("ORD-4", False)]
    with pytest.raises(StoryError, match="no place in a list of stories"):
        stage.app.stories.page(NAME, 3, "nosuch")


# -- failures -------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_before_its_commit_leads_to_one_announcement(stage, monkeypatch):
    tell(stage, PLACED)
    real, ids = stage.store.commit, []

    def die(claim, settlement):
        ids.append(list(settlement.sent))
        monkeypatch.setattr(stage.store, "commit", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage.store, "commit", die)
    with pytest.raises(KeyboardInterrupt):
        stage.advance(minutes=30)
    stage.advance(minutes=1)

    (overdue,) = stage.announced(StoryOverdue)
    assert ids == [[f"event:{overdue.meta.id}"]]
    assert counted(stage, overdue=1)


@pytest.mark.parametrize("when", ["at its end", "at its deadline"])
def test_a_story_that_fails_is_a_dead_letter_and_goes_on_after_its_replay(monkeypatch, when):
    stage = Stage(declare(service("shop", retry=Retry(times=0))), start=NOON)
    with monkeypatch.context() as broken:
        broken.setattr("choreo.delivery.story.StoryDelivery._course", lambda *_: 1 / 0)
        tell(stage, PLACED, OrderConfirmed(), *([DriverAssigned()] if when == "at its end" else []))
        stage.advance(hours=1)
    (letter,) = stage.dead_letters

    stage.app.dead_letters.replay(letter.id)
    stage.advance(hours=1)

    ended = when == "at its end"
    assert (stage.dead_letters, len(stage.announced(StoryOverdue))) == ([], 0 if ended else 1)
    assert [story.overdue for story in stage.stories] == ([] if ended else [True])
    assert counted(stage, ended_in_time=1) if ended else counted(stage, overdue=1)


def test_the_data_of_events_is_not_kept(stage):
    tell(stage, PLACED)

    assert "alice" not in str(stage.store.look(NAME, "join:ORD-1"))


# -- wrong declarations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"begins": "order.placed"}, r"app\.story\('delivery'\): begins='order\.placed' is no event class"),
        ({"begins": []}, r"begins is empty\. Name each event that begins the story"),
        ({"ends": []}, r"ends is empty\. Name each event that ends the story, also one of a failure"),
        ({"steps": [OrderPlaced]}, r"app\.story\('delivery'\) names the same event twice"),
        ({"within": 30}, r"app\.story\('delivery'\): within=30 is not a time to wait"),
        ({"by": "nosuch"}, r"by='nosuch', but OrderPlaced has customer_id, total_cents"),
        ({"by": {OrderPlaced: None}}, r"by= names no key for OrderConfirmed"),
        ({"withn": WITHIN}, r"app\.story\(withn=\.\.\.\): unknown option, did you mean within\?"),
    ],
)
def test_a_wrong_declaration_is_refused(changes, message):
    with pytest.raises(DeclarationError, match=message):
        declare(service("shop"), **changes)


@pytest.mark.parametrize("name", ["delivery", "a name", "dead_letters"])
def test_a_name_that_is_taken_or_cannot_be_a_queue_is_refused(app, name):
    with pytest.raises(DeclarationError):
        app.story(name, begins=OrderPlaced, ends=DriverAssigned, within=WITHIN)


def test_a_story_has_a_task_and_a_queue_of_its_own_and_middleware_is_not_called():
    app, called = declare(service("shop", terms=Terms(retention=timedelta(hours=1)))), []

    @app.around
    def seen(context, proceed):
        called.append(context.handler)
        proceed()

    stage = Stage(app, start=NOON)
    tell(stage, PLACED)
    stage.advance(days=2)

    assert NAME in app.tasks
    assert (len(stage.announced(StoryOverdue)), called) == (1, [])
