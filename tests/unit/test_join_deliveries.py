"""What a join waits for, and what its handler is called with. Without a broker, and in made-up time."""

from datetime import timedelta

import pytest

from choreo import Context, Envelope, Event, PermanentFailure, Reason, Retry, RetryLater, Several, Terms
from choreo.errors import JoinError
from choreo.events.ids import named_id
from choreo.store import Claim
from tests.unit.events import NOON, DriverAssigned, OrderConfirmed, OrderPlaced, PaymentCharged, envelope
from tests.unit.stage import Stage, service

WITHIN = timedelta(minutes=30)
MINUTE = 60.0
HANDLER = "shop.ship"


class ItemPacked(Event):
    name: str = ""
    order_id: str = ""


class OrderShipped(Event):
    items: list[str] = []


class InvoicePaid(Event):
    reference: str | int | None = None


class OrderPacked(Event):
    order_id: str


class OrderCancelled(Event):
    order_id: str = ""


class BasketFilled(Event):
    items: list[str] | int = []


def packed(name: str, **about) -> Envelope:
    return envelope(ItemPacked(name=name), id=f"i-{name}", **about)


PLACED = envelope(OrderPlaced(customer_id="alice"), id="o-1")


# -- several of one type ----------------------------------------------------------------------------------------


def several_stage(times=3, retry: Retry | None = None, fail=(), late=None, **options) -> Stage:
    app = service("shop")
    errors = list(fail)

    def give_up(placed: OrderPlaced | None, items: list[ItemPacked]) -> OrderShipped:
        late.append((placed, [item.name for item in items]))
        return OrderShipped()

    @app.join(
        OrderPlaced,
        Several(ItemPacked, times),
        within=WITHIN,
        retry=retry,
        on_timeout=give_up if late is not None else None,
        **options,
    )
    def ship(placed: OrderPlaced, items: list[ItemPacked]) -> OrderShipped:
        if errors:
            raise errors.pop(0)
        return OrderShipped(items=[item.name for item in items])

    return Stage(app)


def shipped(stage: Stage) -> list[list[str]]:
    return [event.data["items"] for event in stage.told_by_services]


def test_a_join_waits_for_all_of_several_events_of_one_type():
    stage = several_stage(3)

    for part in (packed("a"), PLACED, packed("b")):
        stage.deliver(part)
    assert shipped(stage) == []

    stage.deliver(packed("c"))
    assert shipped(stage) == [["a", "b", "c"]]
    assert stage.store.backlog(HANDLER).total == 0


def test_an_event_that_is_delivered_twice_counts_once():
    stage = several_stage(2)

    for part in (PLACED, packed("a"), packed("a"), packed("a")):
        stage.deliver(part)

    assert shipped(stage) == []
    assert stage.app.joins.tally(HANDLER)["duplicate"] == 2


def test_more_than_are_needed_are_counted_and_not_seen():
    stage = several_stage(2)

    for part in (packed("a"), packed("b"), packed("c"), PLACED, packed("d")):
        stage.deliver(part)

    assert shipped(stage) == [["a", "b"]]
    assert stage.app.joins.tally(HANDLER) == {"late": 1, "duplicate": 0, "surplus": 1}


def test_several_come_in_the_order_in_which_they_were_announced():
    stage = several_stage(3)
    times = {"a": 2, "b": 3, "c": 1}

    for name, minutes in times.items():
        stage.deliver(packed(name, time=NOON + timedelta(minutes=minutes)))
    stage.deliver(PLACED)

    assert shipped(stage) == [["c", "a", "b"]]


def test_a_join_of_several_that_failed_has_all_of_them_again():
    stage = several_stage(2, retry=Retry(times=1), fail=[RetryLater(5)])

    for part in (PLACED, packed("a"), packed("b"), packed("c")):
        stage.deliver(part)
    stage.pass_time(MINUTE)

    assert shipped(stage) == [["a", "b"]]


def test_a_join_of_several_is_buried_and_replayed_with_all_of_them():
    stage = several_stage(2, fail=[PermanentFailure("no van")])
    for part in (packed("b"), PLACED, packed("a")):
        stage.deliver(part)
    (letter,) = stage.dead_letters
    assert [found.id for found in letter.envelopes] == ["o-1", "i-a", "i-b"]

    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(0)

    assert shipped(stage) == [["a", "b"]]
    assert stage.dead_letters == []


def test_on_timeout_sees_those_of_several_that_did_arrive():
    late = []
    stage = several_stage(3, late=late)

    stage.deliver(packed("a"))
    stage.deliver(packed("b"))
    stage.pass_time(WITHIN.total_seconds() + 1)

    assert late == [(None, ["a", "b"])]


def test_an_on_timeout_that_failed_for_good_is_replayed_at_once_with_what_had_arrived():
    calls = []

    class Late(list):
        def append(self, seen):
            calls.append(seen)
            if len(calls) == 1:
                raise PermanentFailure("no")

    stage = several_stage(3, late=Late())
    stage.deliver(packed("a"))
    stage.pass_time(WITHIN.total_seconds() + 1)
    (letter,) = stage.dead_letters

    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(0)

    assert calls == [(None, ["a"])] * 2
    assert stage.dead_letters == []
    assert stage.store.backlog(HANDLER).total == 0


# -- as many as another part says -------------------------------------------------------------------------------


def told_stage(**options) -> Stage:
    app = service("shop")

    @app.join(BasketFilled, Several(ItemPacked, per="items", of=BasketFilled), within=WITHIN, **options)
    def ship(basket: BasketFilled, items: list[ItemPacked]) -> OrderShipped:
        if fail := options_fail and options_fail.pop():
            raise fail
        return OrderShipped(items=[item.name for item in items])

    options_fail: list[Exception] = []
    stage = Stage(app)
    stage.fail = options_fail
    return stage


def basket(items) -> Envelope:
    return envelope(BasketFilled(items=items), id="b-1")


@pytest.mark.parametrize("items", [["a", "b"], 2])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_how_many_there_are_can_be_told_by_another_part_in_any_order(items, first):
    stage = told_stage()
    order = [packed("a"), packed("b")]
    order.insert(first, basket(items))

    for part in order[:-1]:
        stage.deliver(part)
    assert shipped(stage) == []

    stage.deliver(order[-1])
    assert shipped(stage) == [["a", "b"]]


def test_none_at_all_can_be_told():
    stage = told_stage()

    stage.deliver(basket([]))

    assert shipped(stage) == [[]]


@pytest.mark.parametrize("items", ["two", -1, None, True])
def test_a_number_that_is_none_is_a_dead_letter_that_says_so(items):
    stage = told_stage()

    stage.deliver(envelope(BasketFilled(), data={"items": items}))

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.UNREADABLE
    assert f"items of basket.filled ORD-1 is {items!r}, which does not say how many of item.packed" in letter.error


def test_a_replay_knows_how_many_were_told():
    stage = told_stage()
    stage.fail.append(PermanentFailure("no van"))
    for part in (packed("a"), basket(["a", "b"]), packed("b")):
        stage.deliver(part)
    (letter,) = stage.dead_letters

    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(0)

    assert shipped(stage) == [["a", "b"]]


# -- by a field -------------------------------------------------------------------------------------------------


def keyed_stage(by) -> Stage:
    app = service("shop")

    @app.join(OrderPacked, InvoicePaid, unless=OrderCancelled, by=by, within=WITHIN)
    def ship(packed: OrderPacked, paid: InvoicePaid, context: Context) -> OrderShipped:
        return OrderShipped(items=[context.subject, context.idempotency_key])

    return Stage(app)


BY = {OrderPacked: "order_id", InvoicePaid: "reference", OrderCancelled: "order_id"}
ORDER_9 = envelope(OrderPacked(order_id="9"), id="p-9", subject="parcel-1")
PAID_9 = envelope(InvoicePaid(reference="9"), id="v-9", subject="invoice-7")


@pytest.mark.parametrize("order", [(ORDER_9, PAID_9), (PAID_9, ORDER_9)])
def test_parts_belong_together_by_a_field_of_each(order):
    stage = keyed_stage(BY)

    for part in order:
        stage.deliver(part)

    (announced,) = stage.events
    subject, key = announced.data["items"]
    assert subject == "parcel-1"
    assert key == f"shop.ship/join:9/{named_id('/'.join(sorted([ORDER_9.identity, PAID_9.identity])))}"


@pytest.mark.parametrize("order", [(ORDER_9, PAID_9), (PAID_9, ORDER_9)])
def test_what_follows_is_the_same_fact_in_whatever_order_the_parts_came(order):
    stage = keyed_stage(BY)

    for part in order:
        stage.deliver(part)

    (announced,) = stage.events
    assert (announced.subject, announced.causation_id) == ("parcel-1", "v-9")


def test_what_cancels_is_found_by_its_field_too_and_holds_for_later_parts():
    stage = keyed_stage(BY)

    stage.deliver(envelope(OrderCancelled(order_id="9"), id="c-9", subject="desk"))
    stage.deliver(ORDER_9)
    stage.deliver(PAID_9)

    assert stage.types == []
    assert stage.app.joins.tally(HANDLER)["late"] == 2


def test_a_cancellation_is_remembered_for_as_long_as_a_join_waits():
    app = service("shop", terms=Terms(retention=timedelta(minutes=2)))

    @app.join(OrderConfirmed, PaymentCharged, unless=OrderCancelled, within=timedelta(days=7))
    def ship(confirmed: OrderConfirmed, charged: PaymentCharged) -> OrderShipped:
        return OrderShipped()

    stage = Stage(app)
    stage.deliver(envelope(OrderCancelled(), id="c-1"))
    stage.pass_time(timedelta(days=6).total_seconds())
    stage.deliver(envelope(OrderConfirmed(), id="o-1"))
    stage.deliver(envelope(PaymentCharged(), id="p-1"))

    assert stage.types == []


def test_a_whole_number_and_its_text_are_the_same_key():
    stage = keyed_stage(BY)

    stage.deliver(ORDER_9)
    stage.deliver(envelope(InvoicePaid(reference=9), id="v-9"))

    assert stage.types == ["order.shipped"]


def test_a_field_can_stand_beside_the_subject():
    stage = keyed_stage(BY | {OrderPacked: None})

    stage.deliver(envelope(OrderPacked(order_id="?"), id="p-9", subject="9"))
    stage.deliver(PAID_9)

    assert stage.types == ["order.shipped"]


@pytest.mark.parametrize("value", [None, "", True, 1.5, ["9"]])
def test_an_event_that_does_not_say_what_it_belongs_to_is_a_dead_letter(value):
    stage = keyed_stage(BY)

    stage.deliver(envelope(InvoicePaid(), data={"reference": value}))

    (letter,) = stage.dead_letters
    assert letter.reason is Reason.UNREADABLE
    assert f"reference of invoice.paid ORD-1 is {value!r}" in letter.error
    assert "has no key for it" in letter.error


def test_an_event_that_misses_its_field_altogether_is_a_dead_letter():
    stage = keyed_stage(BY)

    stage.deliver(envelope(InvoicePaid(), data={}))

    assert [letter.reason for letter in stage.dead_letters] == [Reason.UNREADABLE]


# -- a quorum ---------------------------------------------------------------------------------------------------


def quorum_stage(seen: list, fail=(), retry: Retry | None = None) -> Stage:
    app = service("shop")
    errors = list(fail)

    @app.join(OrderConfirmed, PaymentCharged, DriverAssigned, at_least=2, within=WITHIN, retry=retry)
    def ship(
        confirmed: OrderConfirmed | None, charged: PaymentCharged | None, assigned: DriverAssigned | None
    ) -> OrderShipped:
        seen.append([part is not None for part in (confirmed, charged, assigned)])
        if errors:
            raise errors.pop(0)
        return OrderShipped()

    return Stage(app)


A = envelope(OrderConfirmed(), id="a")
B = envelope(PaymentCharged(), id="b")
C = envelope(DriverAssigned(), id="c")


@pytest.mark.parametrize(
    ("order", "expected"),
    [((A, B, C), [True, True, False]), ((C, A, B), [True, False, True]), ((B, C, A), [False, True, True])],
)
def test_a_quorum_fires_once_and_later_parts_are_counted(order, expected):
    seen = []
    stage = quorum_stage(seen)

    for part in order:
        stage.deliver(part)

    assert seen == [expected]
    assert stage.app.joins.tally(HANDLER) == {"late": 1, "duplicate": 0, "surplus": 0}


def test_what_needs_less_since_a_deployment_is_fired_at_its_deadline_at_the_latest():
    seen, app = [], service("shop")

    @app.join(OrderConfirmed, PaymentCharged, DriverAssigned, within=WITHIN)
    def ship(confirmed: OrderConfirmed, charged: PaymentCharged, assigned: DriverAssigned) -> OrderShipped:
        return OrderShipped()

    before, after = Stage(app), quorum_stage(seen)
    after.store = after.app.runtime.store = before.store
    for part in (A, B):
        before.deliver(part)

    before.wait(WITHIN.total_seconds())
    for _ in range(2):
        after.clock.tick()
        after.run()

    assert seen == [[True, True, False]]
    assert after.store.backlog(HANDLER).total == 0


def test_every_attempt_of_a_quorum_sees_the_same_parts():
    seen = []
    stage = quorum_stage(seen, fail=[RetryLater(5)], retry=Retry(times=1))

    for part in (A, B, C):
        stage.deliver(part)
    stage.pass_time(MINUTE)

    assert seen == [[True, True, False]] * 2


def test_a_quorum_that_failed_for_good_is_replayed_with_what_it_had():
    seen = []
    stage = quorum_stage(seen, fail=[PermanentFailure("no")])
    for part in (A, B, C):
        stage.deliver(part)
    (letter,) = stage.dead_letters

    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(0)

    assert seen == [[True, True, False]] * 2
    assert stage.types == ["order.shipped"]


# -- crashes ----------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_with_a_complete_join_in_its_hands_leads_to_one_firing():
    stage = several_stage(2)
    stage.deliver(PLACED)
    stage.deliver(packed("a"))
    begin = stage.store.begin

    # It dies: the part is recorded and the join claimed, and nothing else happens.
    def die(claim: Claim):
        begin(claim)
        raise SystemExit

    stage.store.begin = die
    with pytest.raises(SystemExit):
        stage.store.arrive(Claim(HANDLER, "join:ORD-1", "the dead"), arrival_of(stage, packed("b")))
    stage.store.begin = begin

    # The broker delivers the part again, at first while the dead worker's lease still holds.
    stage.deliver(packed("b"))
    assert shipped(stage) == []
    stage.pass_time(MINUTE)
    stage.deliver(packed("b"))

    assert shipped(stage) == [["a", "b"]]
    assert stage.store.backlog(HANDLER).total == 0


def arrival_of(stage: Stage, part: Envelope):
    from choreo.delivery.join import JoinDelivery

    return JoinDelivery(stage.app.runtime, stage.app.subscriptions[0], part).arrival


# -- by hand ----------------------------------------------------------------------------------------------------


def test_a_pending_join_says_what_it_has_and_what_it_waits_for():
    stage = several_stage(3)
    stage.deliver(packed("a"))
    stage.wait(10)

    (join,) = stage.app.joins

    assert (join.handler, join.key) == (HANDLER, "ORD-1")
    assert [str(part) for part in join.missing] == ["order.placed", "2 x item.packed"]
    assert (join.needed, join.complete, join.overdue, join.attempts) == (2, False, False, 0)
    assert [(part.envelope.id, part.at.timestamp()) for part in join.arrived] == [("i-a", 1000)]
    assert (join.since.timestamp(), join.until.timestamp()) == (1000, 1000 + WITHIN.total_seconds())


def test_a_join_that_waits_for_its_next_attempt_says_so():
    stage = several_stage(1, retry=Retry(times=2), fail=[RetryLater(5)])
    stage.deliver(packed("a"))
    stage.deliver(PLACED)

    join = stage.app.joins.get("ORD-1")

    assert (join.complete, join.missing, join.attempts, join.lease) == (True, (), 1, 0)


def test_a_join_whose_time_is_up_stays_pending_until_its_on_timeout_has_succeeded():
    class Late(list):
        def append(self, seen):
            if not stage.calls:
                stage.calls.append(seen)
                raise RetryLater(5)

    stage = several_stage(3, retry=Retry(times=1), late=Late())
    stage.calls = []
    stage.deliver(packed("a"))
    stage.pass_time(WITHIN.total_seconds() + 1)

    (join,) = stage.app.joins
    assert join.overdue

    stage.pass_time(MINUTE)
    assert list(stage.app.joins) == []


def test_a_join_cancelled_by_hand_ignores_what_comes_later(caplog):
    stage = several_stage(1)
    stage.deliver(packed("a"))

    cancelled = stage.app.joins.cancel("ORD-1", "the customer called")
    stage.deliver(PLACED)
    stage.deliver(packed("a"))
    stage.pass_time(WITHIN.total_seconds() + 1)

    assert [part.envelope.id for part in cancelled.arrived] == ["i-a"]
    assert "shop.ship ORD-1 was cancelled by hand: the customer called" in caplog.text
    assert (stage.types, stage.dead_letters, list(stage.app.joins)) == ([], [], [])


def test_a_join_that_a_worker_runs_cannot_be_cancelled():
    stage = several_stage(1)
    stage.deliver(packed("a"))
    stage.store.begin(Claim(HANDLER, "join:ORD-1", "another", attempt=0))

    with pytest.raises(JoinError, match=r"A worker runs shop.ship for 'ORD-1' now. Try again in 15 seconds"):
        stage.app.joins.cancel("ORD-1", "why not")


def test_what_is_not_pending_cannot_be_cancelled_or_fired_and_is_not_settled_by_trying():
    stage = several_stage(1)

    for attempt in (
        lambda: stage.app.joins.cancel("ORD-1", "why not"),
        lambda: stage.app.joins.fire("ORD-1"),
        lambda: stage.app.joins.get("ORD-1", HANDLER),
    ):
        with pytest.raises(JoinError, match="settled, cancelled or never begun"):
            attempt()

    stage.deliver(packed("a"))
    stage.deliver(PLACED)
    assert shipped(stage) == [["a"]]


def test_a_join_fired_by_hand_runs_with_what_has_arrived():
    stage = several_stage(3)
    stage.deliver(PLACED)
    stage.deliver(packed("a"))

    stage.app.joins.fire("ORD-1")
    assert shipped(stage) == []
    stage.pass_time(0)

    assert shipped(stage) == [["a"]]
    assert list(stage.app.joins) == []
    stage.deliver(packed("b"))
    assert len(shipped(stage)) == 1


def test_a_quorum_fired_by_hand_gets_none_for_what_is_missing():
    seen = []
    stage = quorum_stage(seen)
    stage.deliver(B)

    stage.app.joins.fire("ORD-1")
    stage.pass_time(0)

    assert seen == [[False, True, False]]


def test_a_join_fired_by_hand_that_fails_is_tried_again_buried_and_replayed_as_it_was():
    stage = several_stage(3, retry=Retry(times=1), fail=[RetryLater(5), RetryLater(5)])
    stage.deliver(PLACED)
    stage.deliver(packed("a"))

    stage.app.joins.fire("ORD-1")
    stage.pass_time(0)
    stage.pass_time(MINUTE)
    (letter,) = stage.dead_letters
    assert (letter.reason, letter.attempts) == (Reason.EXHAUSTED, 2)

    stage.app.dead_letters.replay(letter.id)
    stage.pass_time(0)
    assert shipped(stage) == [["a"]]


def test_a_handler_that_cannot_do_without_a_part_is_not_fired():
    stage = several_stage(3, late=[])
    stage.deliver(packed("a"))

    with pytest.raises(JoinError, match=r"does not accept None for order.placed. .* or fire it as on timeout"):
        stage.app.joins.fire("ORD-1")


def test_a_join_can_be_fired_as_if_its_time_were_up():
    late = []
    stage = several_stage(3, late=late)
    stage.deliver(packed("a"))

    stage.app.joins.fire("ORD-1", as_timeout=True)
    stage.pass_time(0)

    assert late == [(None, ["a"])]
    assert list(stage.app.joins) == []


def test_without_an_on_timeout_nothing_can_be_fired_as_such():
    stage = several_stage(3)
    stage.deliver(packed("a"))

    with pytest.raises(JoinError, match="it has no on_timeout"):
        stage.app.joins.fire("ORD-1", as_timeout=True)


def test_a_wish_to_fire_that_comes_too_late_changes_nothing():
    stage = several_stage(1)
    stage.deliver(PLACED)
    stage.app.joins.fire("ORD-1")
    stage.deliver(packed("a"))

    stage.pass_time(0)

    assert shipped(stage) == [["a"]]


def test_joins_are_read_a_page_at_a_time_soonest_deadline_first():
    stage = several_stage(2)
    for number in range(7):
        stage.deliver(packed("a", subject=f"ORD-{number}"))
        stage.wait(1)

    first = stage.app.joins.page(HANDLER, 3)
    second = stage.app.joins.page(HANDLER, 3, first.after)
    third = stage.app.joins.page(HANDLER, 3, second.after)

    keys = [[join.key for join in page.joins] for page in (first, second, third)]
    assert keys == [["ORD-0", "ORD-1", "ORD-2"], ["ORD-3", "ORD-4", "ORD-5"], ["ORD-6"]]
    assert third.after == ""


def test_a_key_for_which_several_handlers_wait_needs_the_handlers_name():
    stage = several_stage(2)

    @stage.app.join(ItemPacked, OrderPlaced)
    def count(item: ItemPacked, placed: OrderPlaced) -> None: ...

    stage.app.runtime.introduce()
    stage.deliver(packed("a"), "shop.ship")
    stage.deliver(packed("a"), "shop.count")

    with pytest.raises(JoinError, match=r"2 joins wait for 'ORD-1': shop\.count, shop\.ship\. Say which handler"):
        stage.app.joins.get("ORD-1")
    assert stage.app.joins.get("ORD-1", "shop.ship").handler == "shop.ship"
