"""A view that no event of a class can fit is refused when its handler is declared. In doubt it is accepted."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    create_model,
    field_serializer,
    model_validator,
)

from choreo import DeclarationError, Event, Several
from tests.unit.events import OrderPlaced
from tests.unit.stage import Stage, service


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Level(IntEnum):
    LOW = 1


class Line(BaseModel):
    sku: str
    count: int


#: Reads "5 EUR" as 5.
AMOUNT = BeforeValidator(lambda value: int(str(value).partition(" ")[0]))


class BasketFilled(Event):
    customer_id: str
    total_cents: int
    weight: float
    price: Decimal
    id: UUID
    at: datetime
    took: timedelta
    size: Size
    level: Level
    is_new: bool
    note: str | None = None
    lines: list[Line] = []
    prices: dict[str, int] = {}
    anything: Any = None
    shop: str = Field(alias="theShop")
    code: str = Field("1", pattern="^[0-9]+$")
    euros: Annotated[int, AMOUNT, PlainSerializer(lambda cents: f"{cents} EUR", return_type=str)] = 0
    dollars: Annotated[int, AMOUNT] = 0

    @field_serializer("dollars")
    def _dollars(self, cents: int):  # type: ignore[no-untyped-def]
        return f"{cents} USD"


def declare(view: type[BaseModel]) -> None:
    @service("shop").on(BasketFilled)
    def fill(basket: view) -> None: ...  # type: ignore[valid-type]


def view_of(**fields: Any) -> type[BaseModel]:
    return create_model("View", **{name: (kind, ...) for name, kind in fields.items()})


class WrongLine(BaseModel):
    skew: str


class Forbidding(BaseModel):
    model_config = ConfigDict(extra="forbid")

    customer_id: str


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (
            view_of(customer=str),
            "View.customer is required, and BasketFilled has no such field, did you mean customer_id?",
        ),
        (
            view_of(zone=str),
            "View.zone is required, and BasketFilled has no such field, it has customer_id, total_cents",
        ),
        (view_of(shop=str), "View.shop is required, and BasketFilled has no such field, did you mean theShop?"),
        (
            view_of(total_cents=str),
            "View does not fit BasketFilled: total_cents is written as a whole number and read as a text",
        ),
        (view_of(customer_id=int), "customer_id is written as a text and read as a whole number"),
        (view_of(customer_id=bool), "customer_id is written as a text and read as true or false"),
        (view_of(customer_id=list[str]), "customer_id is written as a text and read as a list"),
        (view_of(lines=str), "lines is written as a list and read as a text"),
        (view_of(is_new=str), "is_new is written as true or false and read as a text"),
        (view_of(size=Literal["tiny"]), 'size is written as "small"'),
        (view_of(size=int), "size"),
        (view_of(at=int), "at"),
        (view_of(euros=int), "euros is written as a text and read as a whole number"),
        (Forbidding, 'Forbidding has extra="forbid", and BasketFilled has the field'),
    ],
)
def test_a_view_that_no_event_fits_is_refused_with_the_way_out(view: type[BaseModel], text: str):
    with pytest.raises(DeclarationError) as refused:
        declare(view)

    assert text in str(refused.value)
    assert "fill, parameter 'basket': " in str(refused.value)


class Renamed(BaseModel):
    customer: str = Field(validation_alias=AliasChoices("customer", "customer_id"))


class Measured(BaseModel):
    size: Annotated[int, BeforeValidator(len)] = Field(validation_alias=AliasChoices("name", "customer_id"))


class Reshaped(BaseModel):
    customer: str

    @model_validator(mode="before")
    @classmethod
    def _reshape(cls, data: Any) -> Any:
        return {"customer": data["customer_id"]}


class Texts(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    total_cents: str


@pytest.mark.parametrize(
    "view",
    [
        view_of(customer_id=str, total_cents=int, lines=list[Line]),
        view_of(total_cents=float),
        view_of(total_cents=Decimal),
        view_of(total_cents=int | None),
        view_of(total_cents=bool),
        view_of(total_cents=datetime),
        view_of(total_cents=timedelta),
        view_of(weight=int),
        view_of(price=float),
        view_of(price=int),
        view_of(price=str),
        view_of(id=str),
        view_of(customer_id=UUID),
        view_of(customer_id=datetime),
        view_of(customer_id=Size),
        view_of(customer_id=Json[dict[str, int]]),
        view_of(at=date),
        view_of(at=str),
        view_of(size=str),
        view_of(size=Literal["small"]),
        view_of(level=int),
        view_of(level=Level),
        view_of(is_new=int),
        view_of(note=str),
        view_of(lines=set[Any]),
        view_of(lines=list[dict[str, Any]]),
        view_of(lines=list[WrongLine]),  # the list may be empty
        view_of(prices=dict[str, str]),
        view_of(anything=int),
        view_of(theShop=str),
        view_of(code=int),
        view_of(dollars=str),
        view_of(customer_id=Annotated[int, BeforeValidator(len)]),
        create_model("View", customer=(str, ""), total_cents=(int, ...)),
        Renamed,
        Measured,
        Reshaped,
        Texts,
    ],
)
def test_a_view_that_some_events_may_fit_is_accepted(view: type[BaseModel]):
    declare(view)


class ItemPacked(Event):
    sku: str


def test_the_views_of_a_join_and_of_its_deadline_are_judged_part_by_part():
    app, wrong, right = service("shop"), view_of(sku=int), view_of(sku=str)

    def late(item: wrong | None, order: OrderPlaced | None) -> None: ...  # type: ignore[valid-type]

    def pack(item: right, order: OrderPlaced) -> None: ...  # type: ignore[valid-type]

    def pack_all(items: list[wrong], order: OrderPlaced) -> None: ...  # type: ignore[valid-type]

    with pytest.raises(DeclarationError, match="late, parameter 'item': View does not fit ItemPacked"):
        app.join(ItemPacked, OrderPlaced, on_timeout=late)(pack)
    with pytest.raises(DeclarationError, match="pack_all, parameter 'items': View does not fit ItemPacked"):
        app.join(Several(ItemPacked, 2), OrderPlaced)(pack_all)
    app.join(ItemPacked, OrderPlaced)(pack)


def test_a_view_of_several_events_has_to_fit_each_of_them():
    with pytest.raises(DeclarationError, match="has no such field, it has customer_id, total_cents"):

        @service("shop").on(ItemPacked, OrderPlaced)
        def hear(item: view_of(sku=str)) -> None: ...  # type: ignore[valid-type]


def test_what_is_heard_by_a_text_is_not_judged():
    @service("shop").on("item.*", "order.placed")
    def hear(item: view_of(bogus=int)) -> None: ...  # type: ignore[valid-type]


def test_an_accepted_view_is_read():
    app, seen = service("shop"), []

    @app.on(OrderPlaced)
    def hear(order: view_of(total_cents=float)) -> None:  # type: ignore[valid-type]
        seen.append(order.total_cents)

    Stage(app).deliver(OrderPlaced(customer_id="alice", total_cents=5))

    assert seen == [5.0]
