"""An event is a typed fact that does not change, and knows where it comes from once it is announced."""

import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any

import pytest
from pydantic import (
    Base64Bytes,
    Base64UrlBytes,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
    field_serializer,
)

from choreo import Envelope, Event
from choreo.errors import DeclarationError, EventNameError, NotAnnouncedError
from choreo.events.event import known_events
from tests.unit.events import NOON, OrderPlaced, PaymentCharged, envelope


def sealed(event: Event, **changes: Any) -> Envelope:
    return event.sealed(**{"id": "e-2", "source": "payment", "subject": None, "cause": None, "time": NOON} | changes)


# -- its type ---------------------------------------------------------------------------------------------------


def test_the_type_is_made_from_the_class_name():
    assert OrderPlaced.event_type == "order.placed"
    assert OrderPlaced.event_version == 1


def test_type_and_version_can_be_given_in_the_class_line():
    class AnyName(Event, type="order.placed_again", version=3):
        pass

    assert AnyName.event_type == "order.placed_again"
    assert AnyName.event_version == 3


def test_a_command_in_disguise_is_refused_when_the_class_is_made():
    with pytest.raises(EventNameError, match="did you mean PaymentCharged"):

        class ChargePayment(Event):
            pass


def test_a_command_is_not_let_in_by_its_type_either():
    with pytest.raises(EventNameError, match="did you mean PaymentCharged"):

        class PaymentTaken(Event, type="charge.payment"):
            pass


def test_fact_says_that_an_unknown_word_states_a_fact():
    class StockLow(Event, fact=True):
        pass

    assert StockLow.event_type == "stock.low"


def test_a_name_of_one_word_is_refused():
    with pytest.raises(DeclarationError, match="Placed does not say what it happened to"):

        class Placed(Event):
            pass


@pytest.mark.parametrize("bad", ["order", "Order.Placed", "order.*", "", 7])
def test_a_type_that_cannot_be_routed_is_refused(bad):
    with pytest.raises(DeclarationError, match="is not an event type"):

        class OrderPlacedOddly(Event, type=bad):
            pass


@pytest.mark.parametrize("bad", [0, -1, "2", 1.5, None])
def test_a_version_is_a_number_from_1(bad):
    with pytest.raises(DeclarationError, match=r"OrderPlacedTwice: version is .*, not a number from 1"):

        class OrderPlacedTwice(Event, version=bad):
            pass


def test_an_unknown_class_option_is_refused_with_those_there_are():
    with pytest.raises(
        DeclarationError,
        match=r"OrderPlacedX\(Event, typ=\.\.\.\).*version, .*fact, foreign and abstract",
    ):

        class OrderPlacedX(Event, typ="order.placed"):
            pass


@pytest.mark.parametrize("name", ["meta", "about", "sealed", "read", "event_type", "event_version", "event_foreign"])
@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
def test_a_field_cannot_have_a_name_that_is_the_events_own(name):
    with pytest.raises(DeclarationError, match=f"OrderPlacedY.{name}.*Rename the field"):
        type("OrderPlacedY", (Event,), {"__annotations__": {name: str}, "__module__": __name__})


def test_an_abstract_class_shares_fields_and_is_no_event():
    class AboutMoney(Event, abstract=True):
        amount_cents: int

    class BillPaid(AboutMoney):
        pass

    assert not hasattr(AboutMoney, "event_type")
    assert BillPaid.event_type == "bill.paid"
    assert BillPaid(amount_cents=5).amount_cents == 5


def test_known_events_are_found_by_type():
    class AboutKnown(Event, abstract=True):
        pass

    class SecretKnownToAll(AboutKnown):
        pass

    known = known_events()

    assert known["secret.known_to_all"] is SecretKnownToAll
    assert AboutKnown not in known.values()


# -- what it says -----------------------------------------------------------------------------------------------


def test_an_event_does_not_change():
    order = OrderPlaced(customer_id="alice")

    with pytest.raises(ValidationError, match="frozen"):
        order.customer_id = "bob"


def test_unknown_fields_are_ignored_on_reading():
    received = envelope(OrderPlaced(customer_id="alice"), data={"customer_id": "alice", "coupon": "SPRING"})

    order = OrderPlaced.read(received)

    assert order == OrderPlaced(customer_id="alice")
    assert not hasattr(order, "coupon")


def test_reading_data_that_does_not_fit_is_an_error():
    with pytest.raises(ValidationError, match="customer_id"):
        OrderPlaced.read(envelope(PaymentCharged()))


def test_events_are_equal_when_they_say_the_same_whoever_announced_them():
    made = OrderPlaced(customer_id="alice")
    heard = OrderPlaced.read(envelope(made))

    assert made == heard
    assert hash(made) == hash(heard)
    assert made != OrderPlaced(customer_id="bob")
    assert {made, heard} == {made}


def test_events_of_different_classes_are_not_equal():
    class OrderPlacedElsewhere(Event):
        customer_id: str
        total_cents: int = 0

    assert OrderPlaced(customer_id="alice") != OrderPlacedElsewhere(customer_id="alice")


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (1, 1.0),
    ],
    ids=["one instant in two time zones", "one table in two orders", "one number in two types"],
)
def test_equal_events_have_equal_hashes(one, same):
    class NoteTaken(Event):
        content: Any

    assert NoteTaken(content=one) == NoteTaken(content=same)
    assert hash(NoteTaken(content=one)) == hash(NoteTaken(content=same))


def test_an_event_with_a_field_of_another_name_on_the_wire_can_read_itself():
    class ParcelWeighed(Event):
        weight_grams: int = Field(alias="weightGrams")

    weighed = ParcelWeighed(weightGrams=5)

    assert ParcelWeighed.read(sealed(weighed)) == weighed


def test_nested_models_and_times_survive_the_journey():
    class Line(BaseModel):
        item: str
        count: int

    class BasketFilled(Event):
        lines: list[Line]
        at: datetime

    filled = BasketFilled(lines=[Line(item="pizza", count=2)], at=NOON)

    assert BasketFilled.read(Envelope.from_wire(sealed(filled).to_wire())) == filled


# -- where it comes from ----------------------------------------------------------------------------------------


def test_meta_is_refused_before_announcement_with_the_way_to_test_it():
    with pytest.raises(NotAnnouncedError, match=r"This OrderPlaced has no metadata.*choreo\.testing\.announced"):
        _ = OrderPlaced(customer_id="alice").meta


@pytest.mark.parametrize(
    "again",
    [
        copy.copy,
        copy.deepcopy,
        lambda event: pickle.loads(pickle.dumps(event)),
        Event.model_copy,
        pytest.param(Event.copy, marks=pytest.mark.filterwarnings("ignore:The `copy` method")),
    ],
    ids=["copied", "copied with what it holds", "pickled", "copied by pydantic", "copied by pydantic, as once"],
)
def test_what_an_event_knows_beside_its_fields_goes_with_a_copy(again: Callable[[Event], Event]):
    read = OrderPlaced.read(envelope(OrderPlaced(customer_id="alice"), subject="ORD-7"))
    moved = again(PaymentCharged().about("PAY-1"))

    assert again(read) == read
    assert again(read).meta == read.meta
    assert sealed(moved).subject == "PAY-1"
    with pytest.raises(NotAnnouncedError):
        _ = moved.meta


def test_what_a_deep_copy_knows_is_its_own():
    read = OrderPlaced.read(envelope(OrderPlaced(customer_id="alice"), subject="ORD-7"))

    copy.deepcopy(read).meta.data["customer_id"] = "bob"

    assert read.meta.data["customer_id"] == "alice"


def test_what_an_event_says_is_no_metadata():
    class OrderNoted(Event):
        model_config = ConfigDict(extra="allow")

    noted = OrderNoted.model_validate({"_meta": "this", "_subject": "that"})

    assert sealed(noted, subject="ORD-1").subject == "ORD-1"
    with pytest.raises(NotAnnouncedError):
        _ = noted.meta


def test_an_event_may_have_private_attributes_of_its_own_and_other_bases():
    class Priced(BaseModel):
        total_cents: int = 0

    class OrderPriced(Priced, OrderPlaced, type="order.priced"):
        _checks: int = PrivateAttr(7)

    read = OrderPriced.read(envelope(OrderPriced(customer_id="alice", total_cents=5), subject="ORD-7"))

    assert (read._checks, read.total_cents, read.meta.subject) == (7, 5, "ORD-7")
    assert copy.copy(read)._checks == 7


def test_an_event_that_was_read_knows_its_metadata():
    received = envelope(OrderPlaced(customer_id="alice"), subject="ORD-7")

    order = OrderPlaced.read(received)

    assert order.meta is received
    assert (order.meta.subject, order.meta.type, order.meta.source) == ("ORD-7", "order.placed", "order")


def test_the_first_event_of_a_story_begins_it():
    first = sealed(OrderPlaced(customer_id="alice"), subject="ORD-1")

    assert first.correlation_id == first.id == "e-2"
    assert first.causation_id is None
    assert first.subject == "ORD-1"
    assert first.data == {"customer_id": "alice", "total_cents": 0}


def test_an_event_inherits_subject_and_story_from_its_cause():
    cause = envelope(OrderPlaced(customer_id="alice"), subject="ORD-1", id="e-1")

    caused = sealed(PaymentCharged(), cause=cause)

    assert caused.subject == "ORD-1"
    assert caused.correlation_id == "story-1"
    assert caused.causation_id == "e-1"


def test_the_subject_is_the_events_own_before_the_given_one_before_that_of_the_cause():
    cause = envelope(OrderPlaced(customer_id="alice"), subject="ORD-1")

    assert sealed(PaymentCharged().about("own"), subject="given", cause=cause).subject == "own"
    assert sealed(PaymentCharged(), subject="given", cause=cause).subject == "given"
    assert sealed(PaymentCharged(), cause=cause).subject == "ORD-1"
    assert sealed(PaymentCharged()).subject == ""


def test_about_leaves_the_event_itself_as_it_was():
    charged = PaymentCharged(amount_cents=5)

    moved = charged.about("PAY-1")

    assert moved == charged
    assert sealed(moved).subject == "PAY-1"
    assert sealed(charged).subject == ""


def test_of_two_classes_of_one_type_the_package_that_is_asked_has_its_own():
    def made(module: str) -> type[Event]:
        return type("StockCounted", (Event,), {"__module__": module})

    first, second = made("shop.events"), made("warehouse.events")

    assert known_events("shop")["stock.counted"] is first
    assert known_events("warehouse")["stock.counted"] is second
    assert known_events("ware")["stock.counted"] in (first, second)


class Photo(BaseModel):
    raw: bytes


class Album(BaseModel):
    photos: list[Photo]
    next_one: "Album | None" = None


@pytest.mark.parametrize(
    "annotation",
    [
        bytes,
        bytes | None,
        list[bytes],
        dict[str, bytes],
        Annotated[bytes, Field()],
        Photo,
        Album,
    ],
)
def test_a_field_of_bytes_is_refused_when_the_event_is_declared(annotation):
    with pytest.raises(DeclarationError, match=r"PhotoTaken\.photo: Events travel as JSON, .*pydantic\.Base64Bytes"):

        class PhotoTaken(Event):
            number: int
            photo: annotation


@pytest.mark.parametrize(
    "annotation", [Base64Bytes, list[Base64UrlBytes], Annotated[bytes, PlainSerializer(bytes.hex, str)], Any, str]
)
def test_a_field_of_bytes_with_an_encoding_is_taken(annotation):
    class PhotoTaken(Event):
        photo: annotation

    assert PhotoTaken.event_type == "photo.taken"


def test_an_event_may_have_an_encoding_for_all_its_bytes():
    class PhotoTaken(Event):
        model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        photo: bytes

    class PhotoShown(Event):
        photo: bytes

        @field_serializer("photo")
        def _hex(self, photo: bytes) -> str:
            return photo.hex()

    assert PhotoTaken.event_type == "photo.taken"
    assert PhotoShown.event_type == "photo.shown"
