"""`app.schedule`: lists what is sent later, hurries it and drops it."""

from datetime import timedelta

import pytest

from choreo import Context, DeadLetter, Event, Reason, Retry, RetryLater, ScheduleError, Service
from choreo.events.message import Message
from choreo.operate.schedule import Kind
from choreo.store import Scheduled
from choreo.store.runs import Result
from tests.unit.events import NOON, OrderConfirmed, OrderPlaced, PaymentCharged, PaymentFailed, envelope
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice")
CHARGE, ASSIGN, ASSIGN_ROUND = "payment.charge", "payment.assign", "driver.assign"


class ReminderSent(Event):
    pass


class Shop:
    """A service whose handlers fail as often as a test wants."""

    def __init__(self) -> None:
        self.app = service("payment")
        self.left = 1
        self.attempts: list[int] = []
        self.told: list[DeadLetter] = []
        self._declare()
        self.stage = Stage(self.app, start=NOON)

    def _declare(self) -> None:
        @self.app.on(OrderPlaced, retry=Retry(times=5))
        def charge(order: OrderPlaced, context: Context) -> PaymentCharged:
            self.attempts.append(context.attempt)
            self._fail()
            return PaymentCharged()

        def give_up(confirmed: OrderConfirmed | None, failed: PaymentFailed | None) -> ReminderSent:
            return ReminderSent()

        @self.app.join(
            OrderConfirmed, PaymentFailed, within=timedelta(hours=1), on_timeout=give_up, retry=Retry(times=5)
        )
        def assign(confirmed: OrderConfirmed, failed: PaymentFailed) -> None:
            self._fail()

        @self.app.dead_letter
        def tell(letter: DeadLetter) -> None:
            self.told.append(letter)

    def _fail(self) -> None:
        if self.left:
            self.left -= 1
            raise RetryLater(1200, "the gateway is away")

    def deliver(self, event: Event, handler: str = CHARGE, **about) -> None:
        self.stage.deliver(event, handler, **about)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def app(shop: Shop) -> Service:
    return shop.app


# -- looking --------------------------------------------------------------------------------------------------------


def test_a_retry_tells_all_that_is_known_of_it(shop: Shop, app: Service):
    shop.deliver(ORDER, subject="ORD-1")

    ((entry,), more) = app.schedule.page()

    assert (entry.kind, entry.handler, entry.subject, entry.type) == (Kind.RETRY, CHARGE, "ORD-1", "order.placed")
    assert (entry.attempt, entry.is_due, entry.due - NOON) == (2, False, timedelta(minutes=20))
    assert entry.error == "RetryLater: the gateway is away"
    assert (entry.event.data["customer_id"], more) == ("alice", "")
    assert app.schedule.get(entry.id) == entry


def test_everything_is_listed_soonest_first_in_pages(shop: Shop, app: Service):
    shop.deliver(ORDER, subject="ORD-1")
    shop.deliver(OrderConfirmed(), ASSIGN, subject="ORD-2", id="c-1")
    for number in range(4):
        app.publish(ReminderSent(), subject=f"ORD-{number}", delay=timedelta(minutes=30))

    found, after = [], ""
    while True:
        page, after = app.schedule.page(limit=2, after=after)
        found += page
        if not after:
            break

    assert [entry.kind for entry in found] == [Kind.RETRY, *4 * [Kind.DELAYED], Kind.DEADLINE]
    assert sorted(entry.subject for entry in found[1:5]) == ["ORD-0", "ORD-1", "ORD-2", "ORD-3"]
    assert found[-1].subject == "ORD-2"
    assert len({entry.id for entry in found}) == 6


def test_a_list_can_be_of_one_subject_or_of_some_handlers(shop: Shop, app: Service):
    shop.deliver(ORDER, subject="ORD-1")
    shop.deliver(OrderConfirmed(), ASSIGN, subject="ORD-1", id="c-1")
    app.publish(ReminderSent(), subject="ORD-10", delay=60)

    def kinds(*names: str, **about) -> list[Kind]:
        return [entry.kind for entry in app.schedule.page(*names, **about)[0]]

    assert kinds(subject="ORD-1") == [Kind.RETRY, Kind.DEADLINE]
    assert kinds("delayed") == [Kind.DELAYED]
    assert kinds("payment") == [Kind.RETRY, Kind.DEADLINE]
    assert kinds(CHARGE, subject="ORD-10") == []
    _, after = app.schedule.page(subject="ORD-1", limit=1)
    assert [entry.kind for entry in app.schedule.page(subject="ORD-1", after=after)[0]] == [Kind.DEADLINE]


def test_empty_schedules_are_asked_nothing(shop: Shop, app: Service, monkeypatch: pytest.MonkeyPatch):
    shop.deliver(OrderPlaced(customer_id="alice"), subject="ORD-1")
    store, asked = shop.stage.store, set()
    store.register([f"payment.idle_{number}" for number in range(100)])
    for name in ("entries", "find_entry", "find_scheduled", "look"):
        ask = getattr(store, name)
        monkeypatch.setattr(store, name, lambda handler, *rest, ask=ask: asked.add(handler) or ask(handler, *rest))

    (entry,), _ = app.schedule.page()
    assert app.schedule.get(entry.id) == entry
    assert app.schedule.find("ORD-1") == app.schedule.page(subject="ORD-1")[0] == [entry]

    assert asked == {CHARGE}


@pytest.mark.parametrize("wrong", ["x", "1 2", "abc def ghi"])
def test_a_place_that_is_none_is_refused(app: Service, wrong: str):
    with pytest.raises(ScheduleError, match="is no place in the schedule"):
        app.schedule.page(after=wrong)


def test_an_event_in_the_outbox_is_no_delayed_event(shop: Shop, app: Service):
    event = envelope(ReminderSent(), time=NOON - timedelta(minutes=5))
    shop.stage.store.schedule(CHARGE, Scheduled(f"event:{event.id}", app.publisher.message_for(event), 30))

    ((entry,), _) = app.schedule.page()

    assert entry.kind is Kind.OTHER
    with pytest.raises(ScheduleError, match=r"cannot be dropped\. It is a message that choreo itself needs"):
        app.schedule.drop(entry.id)


def test_what_waits_for_another_worker_or_a_breaker_is_an_attempt_too(shop: Shop, app: Service):
    message = Message.carrying(envelope(ORDER), exchange="", routing_key=CHARGE, retries=1)
    for key in ("busy:1", "held:1"):
        shop.stage.store.schedule(CHARGE, Scheduled(key, message, 30))

    found, _ = app.schedule.page()

    assert [(entry.kind, entry.attempt, entry.is_droppable) for entry in found] == [(Kind.RETRY, 2, True)] * 2


def test_an_unknown_id_is_refused(app: Service):
    for unknown in ("0123456789", "ORD-1"):
        with pytest.raises(ScheduleError, match="The schedule has no entry"):
            app.schedule.get(unknown)


# -- now ------------------------------------------------------------------------------------------------------------


def test_a_retry_can_be_made_now(shop: Shop, app: Service):
    shop.deliver(ORDER, subject="ORD-1")
    (entry,) = app.schedule.find("ORD-1")

    app.schedule.now(entry.id, reason="the gateway is back", who="ann@desk")
    shop.stage.run()

    assert shop.attempts == [1, 2]
    assert shop.stage.types == ["payment.charged"]
    (repair,) = app.repairs.recent()
    assert (repair.action, repair.who, repair.reason) == ("hurried", "ann@desk", "the gateway is back")
    assert repair.target == "retry of ORD-1 (payment.charge)"
    with pytest.raises(ScheduleError):
        app.schedule.now(entry.id)


def test_a_delayed_event_can_be_announced_now(shop: Shop, app: Service):
    announced = app.publish(ReminderSent(), subject="ORD-1", delay=3600)
    (entry,) = app.schedule.find(announced.envelope.id)

    app.schedule.now(entry.id)
    shop.stage.run()

    assert shop.stage.types == ["reminder.sent"]


def test_a_deadline_can_be_made_to_pass(shop: Shop, app: Service):
    shop.deliver(OrderConfirmed(), ASSIGN, subject="ORD-1")
    (entry,) = app.schedule.find("ORD-1")
    assert entry.kind is Kind.DEADLINE

    app.schedule.now(entry.id)
    shop.stage.run()

    assert shop.stage.types == ["reminder.sent"]
    assert app.joins.find("ORD-1") == []


def test_what_is_just_leaving_is_neither_hurried_nor_dropped(shop: Shop, app: Service):
    announced = app.publish(ReminderSent(), subject="ORD-1", delay=10)
    (entry,) = app.schedule.find("ORD-1")
    shop.stage.wait(11)
    assert [key for key, _ in shop.stage.store.due("delayed", 10, 5.0)] == [f"event:{announced.envelope.id}"]

    with pytest.raises(ScheduleError, match="leaves already"):
        app.schedule.now(entry.id)
    with pytest.raises(ScheduleError, match="has just left"):
        app.schedule.drop(entry.id)


# -- drop -----------------------------------------------------------------------------------------------------------


def test_a_dropped_retry_is_a_dead_letter_that_can_be_replayed(shop: Shop, app: Service):
    shop.deliver(ORDER, subject="ORD-1")
    (entry,) = app.schedule.find("ORD-1")

    dropped = app.schedule.drop(entry.id, reason="a test order", who="ann@desk")
    assert [left.kind for left in app.schedule.find("ORD-1") if left.id == entry.id] == []
    shop.stage.advance(hours=1)

    assert shop.attempts == [1]
    (letter,) = shop.stage.dead_letters
    assert letter.id == dropped.letter.id
    assert (letter.reason, letter.subject, letter.attempts) == (Reason.DROPPED, "ORD-1", 1)
    said = "dropped by ann@desk: a test order; attempt 1 failed: RetryLater: the gateway is away"
    assert letter.error == said
    assert [told.id for told in shop.told] == [letter.id]
    assert app.schedule.find("ORD-1") == []

    app.dead_letters.replay(letter.id)
    shop.stage.run()
    assert (shop.attempts, shop.stage.announced(PaymentCharged) != []) == ([1, 1], True)


def test_the_record_tells_of_a_dropped_retry(shop: Shop, app: Service):
    shop.deliver(ORDER, subject="ORD-1")
    letter = app.schedule.drop(app.schedule.find("ORD-1")[0].id, reason="a test order").letter

    last = shop.stage.store.runs(CHARGE, "story-1", "ORD-1")[-1]

    assert (last.result, last.letter, last.event) == (Result.DEAD, letter.id, "e-1")
    assert [repair.action for repair in app.repairs.recent()] == ["dropped"]


def test_a_dropped_retry_of_a_join_keeps_all_its_parts(shop: Shop, app: Service):
    shop.deliver(OrderConfirmed(), ASSIGN, subject="ORD-1", id="c-1")
    shop.deliver(PaymentFailed(), ASSIGN, subject="ORD-1", id="f-1")
    (entry,) = [entry for entry in app.schedule.find("ORD-1") if entry.kind is Kind.RETRY]

    letter = app.schedule.drop(entry.id).letter

    assert sorted(event.id for event in letter.envelopes) == ["c-1", "f-1"]
    shop.stage.run()
    assert app.schedule.find("ORD-1") == app.joins.find("ORD-1") == []
    shop.deliver(OrderConfirmed(), ASSIGN, subject="ORD-1", id="c-1")
    assert app.joins.find("ORD-1") == [], "a part that comes again begins no other join"

    app.dead_letters.replay(letter.id)
    shop.stage.run()
    assert [made.error for made in shop.stage.deliveries if made.handler == ASSIGN][-1] is None
    assert shop.stage.dead_letters == []


def test_a_dropped_event_of_the_next_round_leaves_the_join_as_it_is():
    app, rounds = service("driver"), []

    @app.join(OrderConfirmed, PaymentFailed, rounds=True)
    def assign(confirmed: OrderConfirmed, failed: PaymentFailed) -> None:
        rounds.append([confirmed.meta.id, failed.meta.id])

    stage = Stage(app, start=NOON)
    for number in (1, 2):
        stage.deliver(OrderConfirmed(), ASSIGN_ROUND, subject="ORD-1", id=f"c-{number}")
    (entry,) = [entry for entry in app.schedule.find("ORD-1") if entry.kind is Kind.RETRY]

    letter = app.schedule.drop(entry.id).letter

    assert [event.id for event in letter.envelopes] == ["c-2"]
    (group,) = app.dead_letters.groups()
    assert group.count == 1
    stage.deliver(PaymentFailed(), ASSIGN_ROUND, subject="ORD-1", id="f-1")
    assert rounds == [["c-1", "f-1"]]
    app.dead_letters.replay(letter.id)
    stage.run()
    stage.deliver(PaymentFailed(), ASSIGN_ROUND, subject="ORD-1", id="f-2")
    stage.run()
    assert rounds == [["c-1", "f-1"], ["c-2", "f-2"]]
    assert stage.dead_letters == []


def test_an_event_of_the_next_round_can_be_dropped_once_the_round_before_is_settled():
    app = service("driver")

    @app.join(OrderConfirmed, PaymentFailed, rounds=True)
    def assign(confirmed: OrderConfirmed, failed: PaymentFailed) -> None: ...

    stage = Stage(app, start=NOON)
    for number in (1, 2):
        stage.deliver(OrderConfirmed(), ASSIGN_ROUND, subject="ORD-1", id=f"c-{number}")
    stage.deliver(PaymentFailed(), ASSIGN_ROUND, subject="ORD-1", id="f-1")
    (entry,) = [entry for entry in app.schedule.find("ORD-1") if entry.kind is Kind.RETRY]

    letter = app.schedule.drop(entry.id).letter

    assert [event.id for event in letter.envelopes] == ["c-2"]
    assert [entry for entry in app.schedule.find("ORD-1") if entry.kind is Kind.RETRY] == []


def test_a_dropped_replay_is_a_dead_letter_again(shop: Shop, app: Service):
    shop.deliver(ORDER, subject="ORD-1")
    first = app.schedule.drop(app.schedule.find("ORD-1")[0].id).letter
    app.dead_letters.replay(first.id)
    (entry,) = [entry for entry in app.schedule.find("ORD-1") if entry.kind is Kind.REPLAY]

    app.schedule.drop(entry.id)
    shop.stage.run()

    assert [letter.reason for letter in shop.stage.dead_letters] == [Reason.DROPPED]
    assert shop.attempts == [1]


def test_a_retry_whose_message_is_in_the_queue_already_is_dropped_as_well(shop: Shop, app: Service):
    shop.deliver(ORDER, subject="ORD-1")
    (entry,) = app.schedule.find("ORD-1")
    message = entry.message
    app.schedule.drop(entry.id)

    shop.stage._take([message])
    shop.stage.run()

    assert shop.attempts == [1], "the unit is finished"


def test_a_retry_that_runs_is_not_dropped(shop: Shop, app: Service):
    from choreo.store import Claim

    shop.deliver(ORDER, subject="ORD-1")
    (entry,) = app.schedule.find("ORD-1")
    shop.stage.store.begin(Claim(CHARGE, entry.event.identity, "another worker", attempt=2))

    with pytest.raises(ScheduleError, match=r"is in the hands of a worker\. Try again in \d+ seconds"):
        app.schedule.drop(entry.id)
    assert shop.stage.dead_letters == []


def test_a_dropped_delayed_event_is_kept_in_the_answer(shop: Shop, app: Service, caplog):
    app.publish(ReminderSent(), subject="ORD-1", delay=60)
    (entry,) = app.schedule.find("ORD-1")

    dropped = app.schedule.drop(entry.id, reason="paid")
    shop.stage.advance(hours=1)

    assert (dropped.letter, dropped.entry.event.type) == (None, "reminder.sent")
    assert shop.stage.types == []
    assert "was dropped by hand: paid. It was: {" in caplog.text


def test_a_deadline_is_not_dropped(shop: Shop, app: Service):
    shop.deliver(OrderConfirmed(), ASSIGN, subject="ORD-1")
    (entry,) = app.schedule.find("ORD-1")

    with pytest.raises(ScheduleError, match=r"cannot be dropped\. A join without a deadline would wait for ever\."):
        app.schedule.drop(entry.id)
    assert app.joins.find("ORD-1") != []
