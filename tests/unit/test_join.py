"""What a join is declared with. What cannot work is refused when its module is imported, with the way out."""

from datetime import timedelta

import pytest
from pydantic import Field

from choreo import Envelope, Event, Several
from choreo.errors import DeclarationError
from tests.unit.events import OrderConfirmed, OrderPlaced, PaymentCharged
from tests.unit.stage import service


class ItemPacked(Event):
    order_id: str = ""


class BasketFilled(Event):
    items: list[str] = []
    order: str = Field("", alias="orderId")


@pytest.fixture
def app():
    return service("shop")


def refused(declare) -> str:
    with pytest.raises(DeclarationError) as caught:
        declare()
    return str(caught.value)


def ship(placed: OrderPlaced, items: list[ItemPacked]) -> None: ...
def ship_basket(basket: BasketFilled, items: list[ItemPacked]) -> None: ...
def both(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...
def either(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> None: ...
def quorum(confirmed: OrderConfirmed | None, charged: PaymentCharged | None, placed: OrderPlaced | None) -> None: ...


# -- several of a type ------------------------------------------------------------------------------------------


def test_several_are_taken_as_a_list_of_events_or_envelopes(app):
    def whole(placed: OrderPlaced, items: list[Envelope]) -> None: ...
    def only(items: list[ItemPacked]) -> None: ...

    app.join(OrderPlaced, Several(ItemPacked, 3))(ship)
    app.join(OrderPlaced, Several(ItemPacked, 3))(whole)
    app.join(Several(ItemPacked, 2))(only)

    assert app.subscriptions[0].patterns == ("order.placed", "item.packed")


def test_several_that_are_not_taken_as_a_list_are_refused_with_what_it_must_be(app):
    def one(placed: OrderPlaced, items: ItemPacked) -> None: ...
    def others(placed: OrderPlaced, items: list[PaymentCharged]) -> None: ...

    for wrong in (one, others):
        assert "(OrderPlaced, list[ItemPacked])" in refused(
            lambda wrong=wrong: app.join(OrderPlaced, Several(ItemPacked, 3))(wrong)
        )
    assert "(OrderPlaced, ItemPacked)" in refused(lambda: app.join(OrderPlaced, ItemPacked)(ship))


def test_a_list_of_events_is_for_joins_only(app):
    def listed(items: list[ItemPacked]) -> None: ...

    assert "takes a list of events, and a handler takes one" in refused(lambda: app.on(ItemPacked)(listed))


@pytest.mark.parametrize("times", [0, -1, 1.5, "3", True])
def test_a_number_that_is_none_is_refused(times):
    assert f"Several(ItemPacked, {times!r}): a whole number from 1." in refused(lambda: Several(ItemPacked, times))


@pytest.mark.parametrize("options", [{}, {"per": "items"}, {"of": BasketFilled}, {"times": 2, "per": "items"}])
def test_how_many_must_be_said_in_one_way(options):
    assert "say how many. Write Several(ItemPacked, 3)" in refused(lambda: Several(ItemPacked, **options))


@pytest.mark.parametrize("thing", ["item.packed", int, None, 5])
def test_several_of_what_is_no_event_are_refused(thing):
    assert "it takes an event class" in refused(lambda: Several(thing, 3))


def test_the_part_that_tells_how_many_must_be_there_and_have_the_field(app):
    def declare(*parts):
        return refused(lambda: app.join(*parts)(ship_basket))

    assert "needs OrderPlaced as another part" in declare(BasketFilled, Several(ItemPacked, per="x", of=OrderPlaced))
    assert "per='boxes', but BasketFilled has items, order." in declare(
        BasketFilled, Several(ItemPacked, per="boxes", of=BasketFilled)
    )
    assert "needs ItemPacked as another part" in declare(BasketFilled, Several(ItemPacked, per="x", of=ItemPacked))


# -- a quorum ---------------------------------------------------------------------------------------------------


def test_the_parameters_of_a_quorum_are_all_optional(app):
    app.join(OrderConfirmed, PaymentCharged, OrderPlaced, at_least=2)(quorum)

    assert "(OrderConfirmed | None, PaymentCharged | None)" in refused(
        lambda: app.join(OrderConfirmed, PaymentCharged, at_least=1)(both)
    )


@pytest.mark.parametrize("at_least", [0, 2, 3, -1, 1.0, True, "1"])
def test_a_quorum_that_is_none_is_refused(app, at_least):
    assert f"at_least={at_least!r} of 2 parts. Write a number from 1 to 1, or leave it out" in refused(
        lambda: app.join(OrderConfirmed, PaymentCharged, at_least=at_least)(either)
    )


# -- by a field -------------------------------------------------------------------------------------------------


def test_a_key_can_be_one_field_of_all_or_another_of_each(app):
    app.join(BasketFilled, Several(ItemPacked, 2), by={BasketFilled: "order", ItemPacked: "order_id"})(ship_basket)
    app.join(BasketFilled, Several(ItemPacked, 2), by={BasketFilled: None, ItemPacked: "order_id"}, name="b")(
        ship_basket
    )

    # It is looked for under the name with which it travels.
    assert [join.keys for join in app.subscriptions] == [
        {"basket.filled": "orderId", "item.packed": "order_id"},
        {"item.packed": "order_id"},
    ]


def test_a_key_that_an_event_does_not_have_is_refused(app):
    assert "by='order_id', but BasketFilled has items, order." in refused(
        lambda: app.join(BasketFilled, Several(ItemPacked, 2), by="order_id")(ship_basket)
    )


def test_a_key_must_be_said_for_what_cancels_too(app):
    by = {OrderConfirmed: "restaurant_id", PaymentCharged: None}

    assert "by= names no key for OrderPlaced. Name a field of it, or None for its subject." in refused(
        lambda: app.join(OrderConfirmed, PaymentCharged, unless=OrderPlaced, by=by)(both)
    )


def test_a_key_of_what_is_not_heard_is_refused(app):
    by = {OrderConfirmed: "restaurant_id", PaymentCharged: None, OrderPlaced: None}

    assert "by= names OrderPlaced, which this join does not listen to." in refused(
        lambda: app.join(OrderConfirmed, PaymentCharged, by=by)(both)
    )


@pytest.mark.parametrize("by", [5, ["order_id"], OrderConfirmed])
def test_a_key_that_is_no_field_is_refused(app, by):
    assert f"by={by!r} is not a field" in refused(lambda: app.join(OrderConfirmed, PaymentCharged, by=by)(both))


# -- as others see it -------------------------------------------------------------------------------------------


def test_a_join_describes_itself_to_those_who_do_not_have_its_code(app):
    def late(basket: BasketFilled | None, items: list[ItemPacked]) -> None: ...

    app.join(
        BasketFilled,
        Several(ItemPacked, per="items", of=BasketFilled),
        unless=OrderPlaced,
        by={BasketFilled: "order", ItemPacked: "order_id", OrderPlaced: None},
        within=timedelta(minutes=5),
        on_timeout=late,
    )(ship_basket)

    assert app.subscriptions[0].described() == {
        "parts": ["basket.filled", "item.packed"],
        "at_least": 2,
        "several": {"item.packed": {"per": "items", "of": "basket.filled"}},
        "keys": {"basket.filled": "orderId", "item.packed": "order_id"},
        "versions": {},
        "unless": ["order.placed"],
        "rounds": False,
        "within": 300.0,
        "on_timeout": True,
        "optional": ["item.packed"],
    }
