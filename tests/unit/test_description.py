"""Descriptions: what a service declares, as data that another process can read."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field

from choreo import DeadLetter, DeclarationError, Envelope, Event, Several, UndeclaredEventWarning
from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.testing import recorder
from tests.unit.stage import service


class OrderPlaced(Event):
    customer_id: str = ""
    total_cents: int = Field(0, alias="totalCents")
    items: list[str] = []


class OrderPacked(Event):
    order_id: str = ""


class OrderCancelled(Event):
    reason: str = ""


class OrderShipped(Event):
    pass


class Spending(BaseModel):
    cents: int = Field(0, validation_alias=AliasChoices("totalCents", AliasPath("total", "cents")))


class ByName(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    cents: int = Field(0, alias="totalCents")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


def handler(app, name: str) -> HandlerDescription:
    found = app.describe().handler(f"shop.{name}")
    assert found is not None
    return found


def test_a_handler_is_described_with_what_it_hears_announces_and_reads():
    app = service("shop")

    @app.on(OrderPlaced, OrderCancelled)
    def watch(event: OrderPlaced | OrderCancelled) -> list[OrderShipped] | OrderPacked | None: ...

    @app.on(OrderPlaced)
    def sum_up(spending: Spending): ...

    @app.on(OrderPlaced)
    def sum_up_by_name(spending: ByName): ...

    @app.on(OrderPlaced)
    def log(event: Open) -> None: ...

    @app.on("order.*")
    def count(event: Envelope) -> None: ...

    assert handler(app, "watch").models == {"order.placed": ("OrderPlaced",), "order.cancelled": ("OrderCancelled",)}
    assert replace(handler(app, "watch"), models={}, uses={}) == HandlerDescription(
        "shop.watch",
        ("order.placed", "order.cancelled"),
        ("order.packed", "order.shipped"),
        reads={"order.placed": ("customer_id", "totalCents", "items"), "order.cancelled": ("reason",)},
        attempts=6,
        versions={"order.placed": (1,), "order.cancelled": (1,)},
    )
    assert handler(app, "sum_up").reads == {"order.placed": ("totalCents", "total")}
    assert handler(app, "sum_up_by_name").reads == {"order.placed": ("totalCents", "cents")}
    assert handler(app, "sum_up").announces is None, "it has no annotation"
    assert handler(app, "log").reads == {"order.placed": None}
    assert handler(app, "count").reads == {"order.*": None}
    assert handler(app, "count").announces == ()
    assert (handler(app, "count").kind, handler(app, "count").service) == ("on", "shop")


def test_a_join_is_described_with_its_parts_and_what_it_announces_at_its_deadline():
    app = service("shop")

    def give_up(placed: OrderPlaced | None, packed: list[Envelope]) -> OrderCancelled: ...

    @app.join(
        OrderPlaced,
        Several(OrderPacked, per="items", of=OrderPlaced),
        by={OrderPlaced: "customer_id", OrderPacked: "order_id", OrderCancelled: None},
        within=timedelta(minutes=5),
        unless=OrderCancelled,
        on_timeout=give_up,
    )
    def ship(placed: OrderPlaced, packed: list[OrderPacked]) -> OrderShipped: ...

    ship_it = handler(app, "ship")
    assert (ship_it.kind, ship_it.parts, ship_it.unless) == (
        "join",
        ("order.placed", "order.packed"),
        ("order.cancelled",),
    )
    assert ship_it.hears == ("order.placed", "order.packed", "order.cancelled")
    assert (ship_it.announces, ship_it.on_timeout) == (("order.shipped",), ("order.cancelled",))
    assert ship_it.join is not None
    assert ship_it.join["within"] == 300
    assert ship_it.join["several"] == {"order.packed": {"per": "items", "of": "order.placed"}}
    assert ship_it.reads == {"order.placed": ("customer_id", "totalCents", "items"), "order.packed": None}


def test_a_service_is_described_with_what_it_announces_outside_of_handlers():
    app = service("shop", announces=[OrderShipped, OrderPlaced])

    @app.dead_letter
    def tell(letter: DeadLetter) -> OrderCancelled: ...

    assert [model.name for model in app.describe().models] == ["OrderCancelled", "OrderPlaced", "OrderShipped"]
    assert replace(app.describe(), models=()) == ServiceDescription(
        "shop", (), ("order.placed", "order.shipped"), ("order.cancelled",)
    )
    assert list(app.describe().announcers()) == [
        ("shop", "dead_letter", ("order.cancelled",)),
        ("shop", "declared", ("order.placed", "order.shipped")),
    ]
    assert service("shop").describe() == ServiceDescription("shop")


def test_a_description_survives_the_way_through_json():
    app = service("shop", announces=[OrderPlaced])

    @app.join(OrderPlaced, OrderPacked, unless=OrderCancelled)
    def ship(placed: OrderPlaced, packed: OrderPacked): ...

    @app.on("order.#")
    def count(event: Envelope) -> None: ...

    told = app.describe()
    read = ServiceDescription.from_json(told.to_json())

    assert read == told
    assert read.digest == told.digest != ServiceDescription("shop").digest
    assert "\n" not in told.to_json()


def test_a_description_of_another_version_is_read_as_far_as_it_is_known():
    newer = {"format": 2, "service": "shop", "stories": [], "handlers": [{"name": "shop.a", "hears": ["a.b"], "x": 1}]}

    assert ServiceDescription.from_json(json.dumps(newer)) == ServiceDescription(
        "shop", (HandlerDescription("shop.a", ("a.b",)),), models=None
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"service": "s", "handlers": [1]}', "[" * 100_000])
def test_a_text_that_is_no_description_is_refused(text: str):
    with pytest.raises(ValueError):
        ServiceDescription.from_json(text)


def test_versions_that_only_read_and_announce_other_things_have_one_shape():
    one = HandlerDescription("shop.a", ("a.b", "a.c"), ("x.y",), reads={"a.b": ("f",)})

    assert one.shape == HandlerDescription("shop.a", ("a.c", "a.b")).shape
    assert one.shape != HandlerDescription("shop.a", ("a.b",)).shape
    assert one.shape != HandlerDescription("shop.a", ("a.b", "a.c"), join={"parts": ["a.b"]}).shape


class AnyEvent(Event, abstract=True):
    pass


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (OrderPlaced, "is not a list of event classes. Write announces=[OrderPlaced]."),
        ("order.placed", "announces='order.placed' is not a list of event classes"),
        (3, "announces=3 is not a list of event classes"),
        (["order.placed"], "names 'order.placed', which is not an event class"),
        ([Spending], "Spending, which is not an event class"),
        ([AnyEvent], "AnyEvent, which is abstract"),
        ([OrderPlaced()], "which is not an event class"),
        ([OrderPlaced, OrderPlaced], "names the same event twice: order.placed, order.placed"),
    ],
)
def test_what_a_service_says_to_announce_is_checked(wrong: object, told: str):
    with pytest.raises(DeclarationError, match=r"Service\('shop'\): ") as refused:
        service("shop", announces=wrong)

    assert told in str(refused.value)


def test_an_event_that_is_not_among_those_leaves_with_a_warning_once():
    app = service("shop", announces=[OrderPlaced])

    with recorder(app) as told:
        app.publish(OrderPlaced())
        with pytest.warns(UndeclaredEventWarning, match=r"shop announces order\.cancelled outside of") as seen:
            app.publish_many([OrderCancelled(), OrderCancelled()])
        app.publish(OrderCancelled())
        with pytest.warns(UndeclaredEventWarning, match=r"shop announces order\.shipped"):
            app.publish(OrderShipped(), delay=3)

    assert len(seen) == 1
    assert [event.type for event in told.events] == ["order.placed", *["order.cancelled"] * 3, "order.shipped"]


def test_a_service_that_does_not_say_what_it_announces_gets_no_warning():
    app = service("shop")

    with recorder(app):
        app.publish(OrderCancelled())


def test_a_story_is_described_as_one_that_only_watches():
    app = service("shop")
    keys = {OrderPlaced: "customer_id", OrderShipped: None}
    app.story("delivery", begins=OrderPlaced, ends=[OrderShipped], by=keys, within=timedelta(hours=1))

    story = handler(app, "delivery")

    assert (story.kind, story.parts, story.unless) == ("story", ("order.placed", "order.shipped"), ())
    assert (story.announces, story.on_timeout) == ((), ("story.overdue",))
    assert story.reads == {"order.placed": ("customer_id",), "order.shipped": ()}
    assert ServiceDescription.from_json(app.describe().to_json()) == app.describe()
