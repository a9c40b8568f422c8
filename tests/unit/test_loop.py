"""How many events have led to an event, and the limit that ends a loop."""

import contextvars
import json
from datetime import timedelta

import pytest

from choreo import Context, DeadLetter, Envelope, Event, PermanentFailure, Service, testing
from choreo.declare.settings import MAX_HOPS
from choreo.delivery.dead_letter import Reason
from choreo.delivery.loop import circle_to, endless
from choreo.errors import DeclarationError, LoopError, StoreError
from choreo.events.metadata import inherited
from choreo.store.memory import MemoryStore
from choreo.store.parts import packed, unpacked
from choreo.store.runs import Result, Run
from choreo.testing import stage
from tests.unit.events import NOON, DriverAssigned, OrderConfirmed, OrderPlaced, PaymentCharged, envelope
from tests.unit.stage import Stage, service


class StockChanged(Event):
    pass


class PriceChanged(Event):
    pass


class LoopFound(Event):
    pass


def counted(platform: testing.Stage) -> list[Envelope]:
    """The events that the services announced. Those that tell of dead letters are not counted."""
    return [event for event in platform.events if event.type != "dead_letter.recorded"]


def shop(**options) -> tuple[Service, Service]:
    """Two services that answer each other for ever."""
    stock, pricing = service("stock", **options), service("pricing", **options)

    @stock.on(PriceChanged)
    def count(price: PriceChanged) -> StockChanged:
        return StockChanged()

    @pricing.on(StockChanged)
    def reprice(changed: StockChanged) -> PriceChanged:
        return PriceChanged()

    return stock, pricing


# -- counting -------------------------------------------------------------------------------------------------------


def test_each_event_tells_how_many_have_led_to_it():
    app, seen = service(), list[int]()

    @app.on(OrderPlaced)
    def confirm(order: OrderPlaced) -> OrderConfirmed:
        seen.append(order.meta.hops)
        return OrderConfirmed()

    @app.on(OrderConfirmed)
    def assign(confirmed: OrderConfirmed) -> DriverAssigned | PaymentCharged:
        seen.append(confirmed.meta.hops)
        app.publish(PaymentCharged(), delay=timedelta(minutes=1))
        return DriverAssigned()

    with stage(app) as platform:
        platform.publish(OrderPlaced(customer_id="alice"))
        platform.advance(minutes=2)

        assert seen == [0, 1]
        assert {event.type: event.hops for event in platform.events} == {
            "order.placed": 0,
            "order.confirmed": 1,
            "driver.assigned": 2,
            "payment.charged": 2,
        }


def test_the_first_event_of_a_story_is_as_long_as_before():
    first, third = envelope(OrderConfirmed()), envelope(OrderConfirmed(), hops=3)

    assert "hops" not in first.to_wire()
    assert third.to_wire()["hops"] == 3
    assert len(json.dumps(third.to_wire(), separators=(",", ":"))) - len(
        json.dumps(first.to_wire(), separators=(",", ":"))
    ) == len(',"hops":3')
    assert Envelope.from_wire(third.to_wire()).hops == 3
    assert Envelope.from_wire(first.to_wire()).hops == 0


@pytest.mark.parametrize("foreign", ["three", -1, True, 2.5, None, [1]])
def test_what_another_program_means_by_hops_is_not_counted(foreign):
    assert Envelope.from_wire(envelope(OrderConfirmed()).to_wire() | {"hops": foreign}).hops == 0


def test_hops_are_no_metadata():
    assert inherited([{"hops": 3, "tenant": "acme"}], {}) == {"tenant": "acme"}


@pytest.mark.parametrize("extensions", [{}, {"tenant": "acme"}])
def test_the_part_of_a_join_keeps_its_hops(extensions):
    part = envelope(OrderConfirmed(), hops=7, extensions=extensions)

    (read,) = unpacked({"order.confirmed": packed(part)})

    assert (read.hops, read.extensions) == (7, extensions)
    assert packed(read) == packed(part)


def test_a_join_counts_from_its_deepest_part():
    app = service()

    @app.join(OrderConfirmed, PaymentCharged)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    platform = Stage(app)
    deep, late = envelope(OrderConfirmed(), id="c-1", hops=7), envelope(PaymentCharged(), id="p-1", hops=2)
    platform.deliver(deep)
    platform.deliver(Envelope.from_wire(late.to_wire() | {"time": (NOON + timedelta(hours=1)).isoformat()}))

    (assigned,) = platform.events
    assert (assigned.hops, assigned.causation_id) == (8, "p-1")


def test_a_retry_keeps_the_hops():
    app = service()

    @app.on(OrderPlaced)
    def confirm(order: OrderPlaced, context: Context) -> OrderConfirmed:
        if context.attempt == 1:
            raise OSError
        return OrderConfirmed()

    platform = Stage(app)
    platform.deliver(OrderPlaced(customer_id="alice"), hops=4)
    platform.pass_time(60)

    assert [event.hops for event in platform.events] == [5]


# -- the limit ------------------------------------------------------------------------------------------------------


def test_a_loop_ends_as_one_dead_letter_that_names_it():
    with stage(*shop()) as platform:
        platform.publish(StockChanged(), subject="BOOK-1")
        platform.run()

        (letter,) = platform.dead_letters
        assert letter.reason is Reason.LOOP
        assert len(counted(platform)) == MAX_HOPS + 1
        assert letter.envelopes[0].hops == MAX_HOPS
        circle = "price.changed -> stock.changed -> price.changed"
        assert letter.error.startswith(f"LoopError: {circle}: 101 events in a row have caused each other")


def test_its_replay_starts_counting_again():
    stock, pricing = shop()
    with stage(stock, pricing) as platform:
        platform.publish(StockChanged(), subject="BOOK-1")
        platform.run()
        (letter,) = platform.dead_letters

        pricing.dead_letters.replay(letter.id)
        platform.run()

        (again,) = platform.dead_letters
        assert again.id != letter.id
        assert len(counted(platform)) == 2 * MAX_HOPS + 1


def test_the_replay_of_a_join_starts_counting_again():
    app = service(choreo_max_hops=3)

    @app.join(OrderConfirmed, PaymentCharged)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    platform = Stage(app)
    platform.deliver(envelope(OrderConfirmed(), id="c-1", hops=3))
    platform.deliver(envelope(PaymentCharged(), id="p-1", hops=1))
    (letter,) = platform.dead_letters
    assert letter.reason is Reason.LOOP

    app.dead_letters.replay(letter.id)
    platform.run()

    assert [event.hops for event in counted(platform)] == [1]
    assert platform.dead_letters == []


def test_only_what_would_announce_one_more_ends():
    app, seen = service(choreo_max_hops=2), list[str]()

    @app.on("#")
    def note(event: Envelope) -> None:
        seen.append(event.type)

    platform = Stage(app)
    platform.deliver(OrderPlaced(customer_id="alice"), hops=2)
    platform.deliver(OrderConfirmed(), hops=9, id="e-2")

    assert seen == ["order.placed", "order.confirmed"]
    assert platform.dead_letters == []


def test_it_is_not_retried_although_the_handler_retries_everything():
    app, called = service(choreo_max_hops=2), list[int]()

    @app.on(OrderPlaced)
    def confirm(order: OrderPlaced, context: Context) -> OrderConfirmed:
        called.append(context.attempt)
        return OrderConfirmed()

    platform = Stage(app)
    platform.deliver(OrderPlaced(customer_id="alice"), hops=2)
    platform.pass_time(3600)

    (letter,) = platform.dead_letters
    assert (called, letter.reason, letter.attempts, counted(platform)) == ([1], Reason.LOOP, 1, [])
    assert letter.error.startswith("LoopError: order.placed -> order.confirmed: 3 events in a row have ")


def test_a_service_without_a_limit_goes_on():
    app = service(choreo_max_hops=0)

    @app.on(OrderPlaced)
    def confirm(order: OrderPlaced) -> OrderConfirmed:
        return OrderConfirmed()

    platform = Stage(app)
    platform.deliver(OrderPlaced(customer_id="alice"), hops=10**6)

    assert [event.hops for event in platform.events] == [10**6 + 1]


@pytest.mark.parametrize("wrong", [-1, "100", 2.5, True])
def test_a_limit_that_is_none_is_refused(wrong):
    with pytest.raises(DeclarationError, match=r"choreo_max_hops = .*: it takes a whole number"):
        _ = service(choreo_max_hops=wrong).conf.choreo_namespace


def test_the_listener_may_still_tell_of_the_loop_and_makes_no_other():
    stock, pricing = shop()

    @pricing.dead_letter
    def tell(letter: DeadLetter) -> LoopFound:
        return LoopFound()

    @stock.on(LoopFound)
    def begin_again(found: LoopFound) -> StockChanged:
        return StockChanged()

    with stage(stock, pricing) as platform:
        platform.publish(StockChanged(), subject="BOOK-1")
        platform.run()

        assert [event.hops for event in platform.events if event.type == "loop.found"] == [MAX_HOPS + 1]
        assert [letter.reason for letter in platform.dead_letters] == [Reason.LOOP, Reason.LOOP]


def test_a_listener_that_is_part_of_a_loop_ends_as_well():
    app = service(choreo_max_hops=3)

    @app.on(OrderPlaced)
    def confirm(order: OrderPlaced) -> None:
        raise PermanentFailure

    @app.dead_letter
    def order_again(letter: DeadLetter) -> OrderPlaced:
        return OrderPlaced(customer_id="alice")

    platform = Stage(app)
    platform.publish(envelope(OrderPlaced(customer_id="alice")))
    platform.run()

    assert [event.hops for event in counted(platform)] == [0, 1, 2, 3, 4, 5, 6]


def test_a_thread_that_outlives_its_handler_makes_no_loop():
    app, left = service(choreo_max_hops=2), list[contextvars.Context]()

    @app.on(OrderPlaced)
    def confirm(order: OrderPlaced) -> None:
        left.append(contextvars.copy_context())

    platform = Stage(app)
    platform.deliver(OrderPlaced(customer_id="alice"), hops=1)
    platform.deliver(OrderPlaced(customer_id="alice"), hops=2, id="e-2")

    left[0].run(app.publish, OrderConfirmed())
    with pytest.raises(LoopError, match=r"order.placed -> order.confirmed: 3 events in a row"):
        left[1].run(app.publish, OrderConfirmed())
    assert [event.hops for event in platform.events] == [2]


# -- the circle -----------------------------------------------------------------------------------------------------


def run(kind: str, event: str, announced: str, announced_id: str) -> Run:
    return Run(event, "story", "", kind, 1, Result.DONE, announced=[(announced, announced_id)])


def test_the_circle_begins_and_ends_with_the_type_that_is_announced():
    runs = [run("order.placed", "1", "a", "2"), run("a", "2", "b", "3"), run("b", "3", "c", "4")]

    assert circle_to(envelope(OrderConfirmed(), type="c", id="4"), {"a"}, runs) == ["a", "b", "c", "a"]
    assert circle_to(envelope(OrderConfirmed(), type="c", id="4"), {"c"}, runs) == ["c", "c"]


@pytest.mark.parametrize("runs", [[], [run("b", "3", "c", "4")], [run("b", "3", "c", "4"), run("c", "4", "b", "3")]])
def test_without_a_record_of_it_the_last_two_types_are_named(runs):
    assert circle_to(envelope(OrderConfirmed(), type="c", id="4"), {"a", "z"}, runs) == ["c", "a"]


def test_a_loop_is_named_as_far_as_it_is_known_while_the_store_does_not_answer(monkeypatch):
    def away(store: MemoryStore) -> list[str]:
        raise StoreError("away")

    monkeypatch.setattr(MemoryStore, "handlers", away)
    announced = [envelope(PriceChanged(), hops=101)]

    error = endless(MemoryStore(), envelope(StockChanged(), hops=100), announced, 100)

    assert str(error).startswith("stock.changed -> price.changed: 101 events in a row have caused each other")


def test_of_a_large_circle_the_ends_are_named():
    runs = [run(f"t{number}", f"{number}", f"t{number + 1}", f"{number + 1}") for number in range(30)]
    store = MemoryStore()
    event = envelope(OrderConfirmed(), type="t30", id="30", hops=100)
    store.register(["payment.charge"])
    store.runs = lambda *_: runs

    error = endless(store, event, [envelope(OrderConfirmed(), type="t0", hops=101)], 100)

    assert str(error).startswith("t0 -> t1 -> t2 -> t3 -> t4 -> t5 -> t6 -> t7 -> t8 -> ... -> t0: 101 events")
