"""An event is read by the rules for JSON, and one that its own class cannot read back does not leave."""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    Base64Bytes,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FutureDatetime,
    Json,
    PlainSerializer,
    SecretBytes,
    SecretStr,
    StrictStr,
    computed_field,
    field_serializer,
    field_validator,
    model_validator,
)

from choreo import DeclarationError, Envelope, Event, InvalidEventError, Redacted
from choreo.events.travel import way_of
from tests.unit.events import NOON, OrderPlaced, envelope
from tests.unit.stage import Stage, service

ID = UUID("12345678-1234-5678-1234-567812345678")


class Size(Enum):
    SMALL = "small"


def sealed(event: Event) -> Envelope:
    return event.sealed(id="e-2", source="shop", subject=None, cause=None, time=NOON)


def travelled(event: Event) -> Event:
    return type(event).read(Envelope.from_wire(sealed(event).to_wire()))


# -- reading ----------------------------------------------------------------------------------------------------


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    at: datetime


class ParcelPacked(Event):
    model_config = ConfigDict(strict=True)

    id: UUID
    at: datetime
    day: date
    took: timedelta
    price: Decimal
    size: Size
    tags: set[str]
    place: tuple[int, int]
    prices: dict[int, Decimal]
    inner: Strict
    name: StrictStr


PACKED = ParcelPacked(
    id=ID,
    at=NOON,
    day=NOON.date(),
    took=timedelta(minutes=5),
    price=Decimal("1.50"),
    size=Size.SMALL,
    tags={"a", "b"},
    place=(1, 2),
    prices={1: Decimal(2)},
    inner=Strict(at=NOON),
    name="Ann",
)


def test_a_strict_class_is_read_by_the_rules_for_json():
    assert travelled(PACKED) == PACKED


def test_a_strict_field_is_enough_for_it():
    class ParcelSent(Event):
        id: UUID = Field(strict=True)

    assert travelled(ParcelSent(id=ID)) == ParcelSent(id=ID)


def test_a_strict_view_is_read_by_the_rules_for_json():
    class Packed(BaseModel):
        model_config = ConfigDict(strict=True)

        id: UUID

    app, seen = service("shop"), []

    @app.on(ParcelPacked)
    def ship(parcel: Packed) -> None:
        seen.append(parcel)

    Stage(app).deliver(PACKED)

    assert seen == [Packed(id=ID)]


def test_what_is_strict_still_refuses_other_types():
    class CountTaken(Event):
        count: int = Field(strict=True)

    with pytest.raises(ValueError, match="count"):
        CountTaken.read(envelope(CountTaken(count=1), data={"count": "1"}))


def test_bytes_that_are_base64_in_json_only_are_read_as_such():
    class PhotoSent(Event):
        model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

        photo: bytes

    assert travelled(PhotoSent(photo=b"\xff\xd8")) == PhotoSent(photo=b"\xff\xd8")


@pytest.mark.parametrize("data", [{"id": "\ud800"}, {"id": float("nan")}, {"id": [[]]}, {}])
def test_data_that_is_no_json_for_a_strict_class_does_not_fit(data: Any):
    class ParcelLost(Event):
        id: UUID = Field(strict=True)

    with pytest.raises(ValueError, match="ParcelLost"):
        ParcelLost.read(envelope(OrderPlaced(customer_id="alice"), data=data))


def test_a_plain_class_is_read_without_writing_json_again_and_is_not_read_back():
    class BasketFilled(Event):
        id: UUID
        at: datetime
        price: Decimal | None = None
        lines: list[dict[str, int]] = []
        size: Size = Size.SMALL
        kind: Literal["a", "b"] = "a"

    way = way_of(BasketFilled)

    assert way.read == BasketFilled.__pydantic_validator__.validate_python
    assert not way.is_checked


# -- refused when the class is made ------------------------------------------------------------------------------


def written_only() -> None:
    class OrderNoted(Event):
        total: int = Field(serialization_alias="sum")


def read_only() -> None:
    class OrderNoted(Event):
        total: int = Field(validation_alias="sum")


def read_from_a_part() -> None:
    class OrderNoted(Event):
        total: int = Field(validation_alias=AliasPath("totals", 0))


def inside_a_model() -> None:
    class Line(BaseModel):
        total: int = Field(0, serialization_alias="sum")

    class OrderNoted(Event):
        lines: list[Line]


def excluded() -> None:
    class OrderNoted(Event):
        total: int = Field(exclude=True)


def computed() -> None:
    class OrderNoted(Event):
        model_config = ConfigDict(extra="forbid")

        @computed_field
        @property
        def total(self) -> int:
            return 1


def secret() -> None:
    class OrderNoted(Event):
        total: SecretStr | None = None


def secret_bytes() -> None:
    class OrderNoted(Event):
        total: list[SecretBytes]


def json_text() -> None:
    class OrderNoted(Event):
        total: Json[list[int]]


def in_the_future() -> None:
    class OrderNoted(Event):
        total: FutureDatetime


def one_sided_bytes() -> None:
    class OrderNoted(Event):
        model_config = ConfigDict(ser_json_bytes="base64")

        total: bytes


def objects() -> None:
    class OrderNoted(Event):
        model_config = ConfigDict(arbitrary_types_allowed=True)

        total: Stage


def no_default() -> None:
    class OrderNoted(Event):
        total: str = None  # type: ignore[assignment]


def other_default() -> None:
    class OrderNoted(Event):
        total: int = "none"  # type: ignore[assignment]


def no_default_in_a_model() -> None:
    class Line(BaseModel):
        total: str = None  # type: ignore[assignment]

    class OrderNoted(Event):
        lines: list[Line] = []


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (written_only, r"OrderNoted\.total: it is written as 'sum', and read as 'total'.*Field\(alias='sum'\)"),
        (read_only, r"OrderNoted\.total: it is written as 'total', and read as 'sum'"),
        (read_from_a_part, r"OrderNoted\.total: it is written as 'total', and read as a part of another field"),
        (inside_a_model, r"Line\.total \(in OrderNoted\.lines\): it is written as 'sum', and read as 'total'"),
        (excluded, r"OrderNoted\.total: it is required, and exclude=True.*Give it a default"),
        (computed, r'OrderNoted\.total: a computed field.*Leave out extra="forbid"'),
        (secret, r"OrderNoted\.total: a secret is written as asterisks.*where the secret is kept"),
        (secret_bytes, r"OrderNoted\.total: a secret is written as asterisks"),
        (json_text, r"OrderNoted\.total: Json\[\.\.\.\].*Annotate the field with the type itself"),
        (in_the_future, r"OrderNoted\.total: it must be in the future when the event is read"),
        (one_sided_bytes, r"OrderNoted\.total: ser_json_bytes and val_json_bytes differ"),
        (objects, r"OrderNoted\.total: events travel as JSON, of which no Stage can be read"),
        (no_default, r"OrderNoted\.total: its default None, once written, cannot be read.*\| None"),
        (
            other_default,
            r"OrderNoted\.total: its default 'none', once written, cannot be read.*valid integer",
        ),
    ],
)
def test_a_class_whose_events_cannot_be_read_back_is_refused(declare: Callable[[], None], text: str):
    with pytest.raises(DeclarationError, match=text):
        declare()


def test_a_field_may_be_read_under_several_names_if_it_is_written_under_one_of_them():
    class OrderRead(Event):
        model_config = ConfigDict(populate_by_name=True)

        total: int = Field(validation_alias=AliasChoices("sum", "total"))
        count: int = Field(validation_alias="number")
        note: str = Field("", exclude=True)
        shop: str = Field(alias="theShop")

    read = OrderRead(sum=1, number=2, theShop="rome")

    assert travelled(read) == read


def test_a_validator_of_the_whole_class_may_give_the_fields_other_names():
    class OrderRead(Event):
        total: int = Field(serialization_alias="sum")

        @model_validator(mode="before")
        @classmethod
        def _names(cls, data: Any) -> Any:
            return {"total": data.get("total", data.get("sum"))}

    assert travelled(OrderRead(total=5)) == OrderRead(total=5)


def test_a_secret_with_a_serializer_of_its_own_is_the_users_to_decide():
    class KeySent(Event):
        key: Annotated[SecretStr, PlainSerializer(lambda key: key.get_secret_value())]

    assert travelled(KeySent(key="k-1")).key.get_secret_value() == "k-1"


# -- refused when an event is announced ---------------------------------------------------------------------------


class PriceRaised(Event):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    price: float = 0
    note: Any = None
    more: dict[str, Any] = {}


class TagsChanged(Event):
    tags: Annotated[list[str], BeforeValidator(lambda text: text.split(","))]


class TotalChanged(Event):
    cents: int

    @field_serializer("cents")
    def _euros(self, cents: int) -> str:
        return f"{cents / 100} EUR"


class TotalDoubled(Event):
    cents: int

    @field_validator("cents")
    @classmethod
    def _double(cls, cents: int) -> int:
        return cents * 2


class MomentChosen(Event):
    at: datetime | str


class SizeChosen(Event):
    size: Literal[Size.SMALL]


class TableSet(Event):
    seats: dict[tuple[int, int], str]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (PriceRaised(price=float("nan")), "price cannot be written as JSON"),
        (PriceRaised(note=float("inf")), "note holds NaN or an infinite number"),
        (PriceRaised(more={"a": [1, {"b": float("-inf")}]}), "more holds NaN or an infinite number"),
        (TagsChanged(tags="a,b"), "TagsChanged cannot be announced: its own class does not read it back.*split"),
        (TotalChanged(cents=5), "TotalChanged cannot be announced: .*cents: Input should be a valid integer"),
        (TotalDoubled(cents=5), "TotalDoubled cannot be announced: cents is written as 10, and would be written as 20"),
        (
            MomentChosen(at="2026-01-01T12:00:00Z"),
            r"MomentChosen cannot be announced: at is .*\(str\), and is read back as .*\(datetime\)",
        ),
        (SizeChosen(size=Size.SMALL), "SizeChosen cannot be announced: .*size"),
        (TableSet(seats={(1, 2): "Ann"}), "TableSet cannot be announced: .*seats"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)
def test_an_event_that_its_own_class_cannot_read_back_is_refused(event: Event, text: str):
    stage = Stage(service("shop"))

    with pytest.raises(InvalidEventError, match=text):
        stage.app.publish(event)

    assert stage.types == []


def test_no_value_of_an_event_with_redacted_fields_is_told():
    class KeyStored(Event):
        number: Annotated[str, Redacted]

        @field_validator("number")
        @classmethod
        def _grow(cls, number: str) -> str:
            return f"{number}-{number}"

    with pytest.raises(
        InvalidEventError, match=r"number is written as \*\*\*, and would be written as \*\*\*"
    ) as refused:
        sealed(KeyStored(number="4111"))

    assert "4111" not in str(refused.value)


def test_a_float_that_json_has_not_is_refused_in_a_plain_class_too():
    class PriceDropped(Event):
        price: float

    stage = Stage(service("shop"))

    assert not way_of(PriceDropped).is_checked
    with pytest.raises(InvalidEventError, match=r"price.*cannot be written as JSON"):
        stage.app.publish(PriceDropped(price=float("nan")))
    assert stage.types == []


@pytest.mark.parametrize(
    "event",
    [
        PriceRaised(note=[1, "a", {"b": None}], more={"c": 1.5}),
        PriceRaised(price=1),
        MomentChosen(at="noon"),
        MomentChosen(at=NOON),
        TableSet(seats={}),
    ],
)
def test_other_events_of_the_same_classes_leave(event: Event):
    assert travelled(event) == event


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_an_instance_that_only_looks_odd_leaves():
    class PriceDropped(Event):
        price: float = 0

    assert travelled(PriceDropped.model_construct(price=Decimal("1.5"))) == PriceDropped(price=1.5)


def test_what_a_factory_makes_is_checked_when_an_event_is_announced():
    class TicketDrawn(Event):
        number: int = Field(default_factory=lambda: None)
        tags: list[str] = Field(default_factory=list)

    with pytest.raises(InvalidEventError, match=r"TicketDrawn cannot be announced: .*number"):
        sealed(TicketDrawn())
    assert travelled(TicketDrawn(number=5)) == TicketDrawn(number=5)


def test_an_event_that_was_made_without_validation_is_checked_at_once():
    with pytest.raises(InvalidEventError, match=r"OrderPlaced cannot be announced: .*customer_id"):
        OrderPlaced.model_construct(customer_id=5)


def test_a_copy_with_other_values_is_checked_when_it_is_made():
    order = OrderPlaced(customer_id="alice")

    assert order.model_copy(update={"customer_id": "bob"}) == OrderPlaced(customer_id="bob")
    with pytest.raises(InvalidEventError, match="customer_id"):
        order.model_copy(update={"customer_id": None})


def test_a_class_with_a_type_that_is_defined_later_is_judged_when_it_is_used():
    class OrderMoved(Event):
        place: "Later"

    class Later(BaseModel):
        city: str = Field(serialization_alias="town")

    OrderMoved.model_rebuild(_types_namespace={"Later": Later})

    with pytest.raises(InvalidEventError, match=r"Later\.city \(in OrderMoved\.place\): it is written as 'town'"):
        sealed(OrderMoved(place=Later(city="Rome")))


def test_base64_travels():
    class PhotoTaken(Event):
        photo: Base64Bytes

    assert travelled(PhotoTaken(photo=b"dGV4dA==")).photo == b"text"
