"""Event classes are ordinary classes: generic ones, with mixins, with discriminated unions, and with bases."""

from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import BaseModel, Discriminator, Field, Tag

from choreo import DeclarationError, Envelope, Event, InvalidEventError
from choreo.events.event import known_events
from choreo.events.travel import way_of
from tests.unit.events import NOON, OrderPlaced, envelope
from tests.unit.stage import Stage, service

T = TypeVar("T")


class Book(BaseModel):
    title: str


class PageRead(Event, Generic[T]):
    content: T
    number: int = 1


class AnyPage(Event, Generic[T], abstract=True):
    content: T


class NotePrinted(AnyPage[str]):
    pass


def travelled(event: Event) -> Event:
    sealed = event.sealed(id="e-1", source="shop", subject=None, cause=None, time=NOON)
    return type(event).read(Envelope.from_wire(sealed.to_wire()))


# -- generic events -----------------------------------------------------------------------------------------------


def test_a_generic_event_is_one_event_whatever_its_fields_hold():
    assert PageRead.event_type == PageRead[int].event_type == PageRead[Book].event_type == "page.read"
    assert known_events(__name__)["page.read"] is PageRead  # the docs have one of this type too


def test_a_generic_event_is_read_with_the_types_it_was_given():
    read = travelled(PageRead[Book](content=Book(title="Emma")))

    assert read.content == Book(title="Emma")
    with pytest.raises(ValueError, match="title"):
        PageRead[Book].read(envelope(PageRead[Any](content={})))


def test_a_handler_hears_a_generic_event_with_the_types_it_names():
    app, heard = service("library"), []

    @app.on(PageRead[Book])
    def hear(page: PageRead[Book]) -> None:
        heard.append(page.content.title)

    Stage(app).deliver(PageRead[Book](content=Book(title="Emma")))

    assert heard == ["Emma"]


def test_a_handler_of_a_generic_event_may_name_its_types_in_the_annotation_only():
    app, heard = service("library"), []

    @app.on(PageRead)
    def hear(page: PageRead[int]) -> None:
        heard.append(page.content)

    @app.join(PageRead, OrderPlaced)
    def both(page: PageRead[int], order: OrderPlaced) -> None:
        heard.append(page.content + order.total_cents)

    stage = Stage(app)
    for event in (PageRead[int](content=5), OrderPlaced(customer_id="alice", total_cents=2)):
        stage.deliver(event, "library.both", id=event.event_type)
    stage.deliver(PageRead[int](content=5))

    assert heard == [7, 5]


def read_page(event: Event) -> None:
    """A handler."""


def test_an_abstract_generic_event_is_a_base_with_types_to_fill_in():
    assert NotePrinted.event_type == "note.printed"
    assert travelled(NotePrinted(content="Emma")) == NotePrinted(content="Emma")
    assert not hasattr(AnyPage, "event_type")
    assert not hasattr(AnyPage[int], "event_type")
    with pytest.raises(DeclarationError, match="neither an event class"):
        service("library").on(AnyPage[int])(read_page)


# -- mixins --------------------------------------------------------------------------------------------------------


class Registered:
    made: dict[str, str] = {}

    def __init_subclass__(cls, label: str = "", **others: Any) -> None:
        super().__init_subclass__(**others)
        Registered.made[cls.__name__] = label


@pytest.mark.parametrize("bases", [(Event, Registered), (Registered, Event)])
def test_a_mixin_learns_of_the_class_and_gets_its_options(bases: tuple[type, ...]):
    made: Any = type(Event)("MixinUsed", bases, {"__module__": __name__}, type="mixin.used", version=3, label="x")

    assert (made.event_type, made.event_version) == ("mixin.used", 3)
    assert Registered.made["MixinUsed"] == "x"


def test_a_pydantic_mixin_learns_of_the_class_when_its_fields_are_known():
    seen: list[Any] = []

    class Noted(BaseModel):
        @classmethod
        def __pydantic_init_subclass__(cls, **options: Any) -> None:
            super().__pydantic_init_subclass__(**options)
            seen.append((cls.__name__, list(cls.model_fields)))

    class MixinSeen(Event, Noted):
        number: int

    assert ("MixinSeen", ["number"]) in seen
    assert MixinSeen.event_type == "mixin.seen"


def test_an_option_that_no_base_takes_is_refused():
    with pytest.raises(DeclarationError, match=r"MixinMissed\(Event, tabel=\.\.\.\)"):

        class MixinMissed(Event, Registered, tabel="x"):
            pass


# -- subclasses ----------------------------------------------------------------------------------------------------


def test_an_event_of_an_event_is_refused_since_handlers_of_the_base_would_not_hear_it():
    with pytest.raises(DeclarationError) as refused:

        class OrderPlacedTwice(OrderPlaced):
            pass

    assert str(refused.value).startswith(
        "OrderPlacedTwice travels as order.placed_twice, so the handlers of its base OrderPlaced (order.placed) would "
        "not hear it. Share the fields in a base of both: class ...(Event, abstract=True); or say that it is another "
        'event: class OrderPlacedTwice(OrderPlaced, type="order.placed_twice").'
    )


def test_an_event_of_an_event_that_says_its_type_is_another_event():
    class OrderPlacedAgain(OrderPlaced, type="order.placed_again"):
        times: int = 2

    assert OrderPlacedAgain.event_type == "order.placed_again"
    assert OrderPlaced.event_type == "order.placed"


def test_a_base_of_an_event_cannot_be_abstract_below_one():
    with pytest.raises(DeclarationError, match="OrderBase cannot be abstract: its base OrderPlaced is an event"):

        class OrderBase(OrderPlaced, abstract=True):
            pass


# -- discriminated unions --------------------------------------------------------------------------------------------


class Card(BaseModel):
    kind: Literal["card"] = "card"
    last4: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"
    cents: int


class Split(BaseModel):
    kind: Literal["split"] = "split"
    parts: list[Annotated[Card | Cash, Field(discriminator="kind")]]


class BillPaid(Event):
    by: Annotated[Card | Cash | Split, Field(discriminator="kind")]
    tips: dict[str, Annotated[Card | Cash, Field(discriminator="kind")]] = {}


def by_shape(value: Any) -> str:
    return "card" if (isinstance(value, Card) or "last4" in value) else "cash"


class TipPaid(Event):
    by: Annotated[Annotated[Card, Tag("card")] | Annotated[Cash, Tag("cash")], Discriminator(by_shape)]


@pytest.mark.parametrize(
    "event",
    [
        BillPaid(by=Card(last4="1234")),
        BillPaid(by=Split(parts=[Cash(cents=5), Card(last4="1234")]), tips={"Ann": Cash(cents=1)}),
        TipPaid(by=Card(last4="1234")),
    ],
)
def test_a_discriminated_union_is_read_as_what_it_was(event: Event):
    assert travelled(event) == event


def test_a_discriminated_union_costs_no_reading_back():
    assert not way_of(BillPaid).is_checked


class Oddly(Event, type="tip.paid_oddly"):
    by: Annotated[
        Annotated[Card, Tag("card")] | Annotated[Cash, Tag("cash")],
        Discriminator(lambda value: "card" if value.kind == "card" else "cash"),
    ]


def test_a_discriminator_that_reads_models_and_no_data_is_refused_when_an_event_is_announced():
    with pytest.raises(InvalidEventError, match=r"Oddly cannot be announced: .*no attribute 'kind'"):
        Stage(service("shop")).app.publish(Oddly(by=Card(last4="1234")))
