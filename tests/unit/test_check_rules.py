"""Each rule of `choreo check` finds its fault in a bad declaration, and nothing in its good twin."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, Union
from uuid import UUID

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, create_model, field_serializer, field_validator

from choreo import Context, DeadLetter, DeadLetterRecorded, Envelope, Event, Redacted, Service, Several, Upcast
from choreo.check.checking import judge
from choreo.check.platform import Platform
from choreo.check.rules import RULES
from choreo.check.settings import Settings
from choreo.findings import Finding
from tests.unit.stage import service

#: The rules that these small platforms, or others in this file, break as well.
BESIDE = {"CH201", "CH202", "CH601", "CH801"}


class OrderPlaced(Event):
    order_id: str = ""


class OrderConfirmed(Event):
    order_id: str = ""


class PaymentCharged(Event):
    order_id: str = ""


class DriverAssigned(Event):
    order_id: str = ""


class OrderRejected(Event):
    order_id: str = ""


@pytest.fixture(autouse=True)
def without_contract_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def judged(*apps: Service, code: str, classes: tuple[type[Event], ...] = (), **settings: Any) -> list[Finding]:
    """The findings of one rule."""
    platform = Platform.of(*apps, classes=classes, settings=Settings(**settings))
    return [one for one in judge(platform) if one.rule == code]


def codes(*apps: Service, classes: tuple[type[Event], ...] = (), **settings: Any) -> set[str]:
    platform = Platform.of(*apps, classes=classes, settings=Settings(**settings))
    return {one.rule for one in judge(platform)} - BESIDE


def of_class(event: type[Event]) -> set[str]:
    """The codes of what is found in a class of an event."""
    return codes(classes=(event,))


def announcing(*events: type[Event]) -> Service:
    return service("source", announces=events)


# -- CH1 -------------------------------------------------------------------------------------------------------------


def test_a_command_that_is_called_a_fact_is_found_with_the_fact() -> None:
    class ChargePayment(Event, fact=True):
        pass

    class ParcelInTheBox(Event, fact=True):
        pass

    (finding,) = judged(classes=(ChargePayment, ParcelInTheBox), code="CH101")

    assert finding.subject == "charge.payment"
    assert "PaymentCharged" in finding.fix


def question(*, is_heard_by_another: bool) -> list[Service]:
    shop, bank, others = service("shop", announces=[OrderPlaced]), service("bank"), service("others")

    @bank.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged()

    @shop.on(PaymentCharged)
    def go_on(charged: PaymentCharged) -> None: ...

    if is_heard_by_another:

        @others.on(PaymentCharged)
        def count(charged: PaymentCharged) -> None: ...

    return [shop, bank, others]


def test_a_question_to_one_service_whose_answer_only_its_publisher_hears_is_a_command() -> None:
    (finding,) = judged(*question(is_heard_by_another=False), code="CH102")

    assert finding.subject == "order.placed"
    assert "only bank.charge hears it" in finding.text
    assert not judged(*question(is_heard_by_another=True), code="CH102")


# -- CH2 -------------------------------------------------------------------------------------------------------------


def test_an_event_that_nobody_hears_is_found_unless_it_is_heard_elsewhere() -> None:
    app = announcing(OrderPlaced)

    (finding,) = judged(app, code="CH201")

    assert (finding.subject, finding.text) == ("order.placed", "source announces it, and nobody hears it")
    assert not judged(app, code="CH201", heard_elsewhere=("order.*",))


def test_a_handler_of_a_type_that_nobody_announces_is_found_with_what_was_meant() -> None:
    app = service("bank")

    @app.on("order.plced")
    def charge(order: Envelope) -> None: ...

    (finding,) = judged(app, announcing(OrderPlaced), code="CH202")

    assert finding.subject == "bank.charge"
    assert finding.text == "it hears order.plced, which nobody announces: did you mean order.placed?"
    assert not judged(app, code="CH202", announced_elsewhere=("order.plced",))


def test_a_handler_without_an_annotation_may_announce_the_classes_that_it_names() -> None:
    app = service("bank")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced):
        return PaymentCharged()

    @app.on(PaymentCharged)
    def tell(charged: PaymentCharged) -> None: ...

    assert not judged(app, announcing(OrderPlaced), code="CH202")


def test_a_pattern_that_no_event_matches_is_found() -> None:
    app = service("bank")

    @app.on("ordr.*")
    def charge(order: Envelope) -> None: ...

    @app.on("order.*", "#")
    def count(order: Envelope) -> None: ...

    (finding,) = judged(app, announcing(OrderPlaced), code="CH203")

    assert finding.subject == "bank.charge"


def test_two_types_that_differ_in_a_plural_or_a_dot_are_found() -> None:
    class OrdersPlaced(Event):
        pass

    class OrderPacked(Event):
        pass

    class OrderPicked(Event):
        pass

    (finding,) = judged(announcing(OrderPlaced, OrdersPlaced, OrderPacked, OrderPicked), code="CH204")

    assert finding.subject == "orders.placed"


def test_a_handler_of_a_base_event_that_hears_no_subclass_is_found() -> None:
    class PageRead(Event):
        pass

    class LastPageRead(PageRead, type="last_page.read"):
        pass

    app = service("library")

    @app.on(PageRead)
    def count(page: PageRead) -> None: ...

    (finding,) = judged(app, announcing(PageRead, LastPageRead), code="CH205")
    assert "last_page.read" in finding.text

    good = service("good")

    @good.on(PageRead, LastPageRead)
    def count_all(page: PageRead | LastPageRead) -> None: ...

    assert not judged(good, announcing(PageRead, LastPageRead), code="CH205")
    assert not judged(app, announcing(PageRead), code="CH205"), "the subclass is another program's"


# -- CH3 -------------------------------------------------------------------------------------------------------------


def test_a_join_with_a_part_that_nobody_announces_is_found_and_its_handler_is_not_found_twice() -> None:
    app = service("driver")

    @app.join(OrderConfirmed, PaymentCharged)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    (finding,) = judged(app, announcing(OrderConfirmed), code="CH301")

    assert finding.text == "it waits for payment.charged, which nobody announces"
    assert not judged(app, announcing(OrderConfirmed), code="CH202")
    assert not judged(app, announcing(OrderConfirmed, PaymentCharged), code="CH301")


def test_an_undo_of_what_nobody_announces_is_found_and_is_no_join() -> None:
    app = service("bank")

    @app.on(OrderRejected, undoes=PaymentCharged)
    def refund(charged: PaymentCharged) -> None: ...

    (finding,) = judged(app, announcing(PaymentCharged), code="CH202")

    assert finding.text == "it hears order.rejected, which nobody announces"
    assert not judged(app, announcing(PaymentCharged), code="CH301")


def test_a_join_that_can_do_without_the_missing_part_is_not_found() -> None:
    app = service("driver")

    @app.join(OrderConfirmed, PaymentCharged, at_least=1)
    def assign(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> None: ...

    assert not judged(app, announcing(OrderConfirmed), code="CH301")


class CardKnown(Event):
    order_id: UUID


class CardLost(Event):
    order_id: str | None = None


class CardNumbered(Event):
    order_id: int


@pytest.mark.parametrize(
    ("other", "expected"),
    [(CardLost, {"CH302"}), (CardNumbered, {"CH303"}), (OrderPlaced, set())],
)
def test_a_key_that_can_be_missing_or_never_be_equal_is_found(other: type[Event], expected: set[str]) -> None:
    app = service("bank")

    @app.join(CardKnown, Several(other, 2), by="order_id")
    def compare(known: CardKnown, others: list[Envelope]) -> None: ...

    assert codes(app, announcing(CardKnown, other), classes=(CardKnown, other)) == expected


def either(annotation: Any) -> list[Service]:
    app = service("bank")

    def charge(order: OrderPlaced) -> Any:
        return []

    charge.__annotations__["return"] = annotation
    app.on(OrderPlaced)(charge)

    @app.join(OrderConfirmed, PaymentCharged)
    def both(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    return [app, announcing(OrderPlaced)]


def test_a_join_of_two_events_of_which_a_handler_returns_one_is_found() -> None:
    (finding,) = judged(*either(OrderConfirmed | PaymentCharged), code="CH304")

    assert "bank.charge returns one of them or the other" in finding.text
    assert not judged(*either(list[OrderConfirmed | PaymentCharged]), code="CH304")
    assert not judged(*either(Iterator[OrderConfirmed | PaymentCharged]), code="CH304")
    assert not judged(*either(OrderConfirmed | PaymentCharged), announcing(PaymentCharged), code="CH304")


# -- CH4 -------------------------------------------------------------------------------------------------------------


def circle(annotation: Any) -> Service:
    app = service("bank")

    def confirm(order: OrderPlaced) -> Any: ...

    @app.on(OrderConfirmed)
    def place(confirmed: OrderConfirmed) -> OrderPlaced:
        return OrderPlaced()

    confirm.__annotations__["return"] = annotation
    app.on(OrderPlaced)(confirm)
    return app


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (OrderConfirmed, {"CH401"}),
        (OrderConfirmed | None, {"CH402"}),
        (OrderConfirmed | PaymentCharged, {"CH402"}),
        (list[OrderConfirmed], {"CH402"}),
        (PaymentCharged, set()),
    ],
)
def test_a_circle_of_events_is_found_with_and_without_an_exit(annotation: Any, expected: set[str]) -> None:
    assert codes(circle(annotation)) & {"CH401", "CH402"} == expected


def test_a_handler_of_every_event_that_announces_one_is_a_circle_of_its_own() -> None:
    app = service("bank")

    @app.on("#")
    def count(event: Envelope) -> PaymentCharged:
        return PaymentCharged()

    (finding,) = judged(app, announcing(OrderPlaced), code="CH401")

    assert "payment.charged → payment.charged" in finding.text


def test_more_hearers_of_an_event_than_the_budget_are_found() -> None:
    app = service("bank")
    for number in range(3):
        app.on(OrderPlaced, name=f"hear_{number}")(partial(hear))

    assert judged(app, announcing(OrderPlaced), code="CH403", fan_out=2)
    assert not judged(app, announcing(OrderPlaced), code="CH403", fan_out=3)


def hear(order: OrderPlaced) -> None: ...


def test_a_longer_chain_and_more_services_than_the_budgets_are_found() -> None:
    first, second, third = service("first"), service("second"), service("third")

    @first.on(OrderPlaced)
    def confirm(order: OrderPlaced) -> OrderConfirmed:
        return OrderConfirmed()

    @second.on(OrderConfirmed)
    def charge(confirmed: OrderConfirmed) -> PaymentCharged:
        return PaymentCharged()

    @third.on(PaymentCharged)
    def tell(charged: PaymentCharged) -> None: ...

    apps = [first, second, third, announcing(OrderPlaced)]
    (deep,) = judged(*apps, code="CH404", depth=2)
    (wide,) = judged(*apps, code="CH405", services=2)

    assert "order.placed → order.confirmed → payment.charged" in deep.text
    assert wide.text.endswith("first, second, third")
    assert not judged(*apps, code="CH404", depth=3)
    assert not judged(*apps, code="CH405", services=3)


def test_a_flow_in_which_everything_leads_to_everything_later_is_judged_at_once() -> None:
    """It has 2**28 chains."""
    app = service("bank")
    steps = [type(f"Step{number}Done", (Event,), {"__module__": __name__}) for number in range(30)]
    for number, step in enumerate(steps):
        app.on(step, name=f"do_{number}")(leading(step, steps[number + 1 :]))

    (finding,) = judged(app, announcing(steps[0]), code="CH404", depth=29)

    assert "a chain of 30 events" in finding.text


def leading(step: type[Event], following: list[type[Event]]) -> Callable[..., Any]:
    def do(event: Any) -> Any: ...

    do.__annotations__ = {"event": step, "return": Union[(*following, None)]}
    return do


# -- CH5 -------------------------------------------------------------------------------------------------------------

pending: dict[str, bool] = {}
totals: dict[str, int] = {}
TABLE = {"alice": 1}


def try_assign(order_id: str) -> bool:
    return pending.pop(order_id, False)


def note(order_id: str) -> None:
    pending[order_id] = True


class Desk:
    def __init__(self) -> None:
        self.waiting: list[str] = []

    def put(self, order: OrderPlaced) -> None:
        self.waiting.append(order.order_id)

    def take(self, charged: PaymentCharged) -> None:
        print(charged, self.waiting)


def test_a_handler_that_reads_what_a_handler_of_another_event_left_in_memory_is_found_through_helpers() -> None:
    app = service("driver")

    @app.on(OrderConfirmed)
    def keep(confirmed: OrderConfirmed) -> None:
        note(confirmed.order_id)

    @app.on(PaymentCharged)
    def assign(charged: PaymentCharged) -> DriverAssigned | None:
        return DriverAssigned() if try_assign(charged.order_id) else None

    @app.on(OrderPlaced)
    def look_up(order: OrderPlaced) -> None:
        print(TABLE["alice"])

    (finding,) = judged(app, code="CH501")

    assert finding.subject == "driver.assign"
    assert finding.text.startswith("it reads pending, which driver.assign and driver.keep fills")


def test_state_of_an_object_counts_and_that_of_one_event_alone_does_not() -> None:
    app, desk = service("driver"), Desk()
    app.on(OrderPlaced)(desk.put)
    app.on(PaymentCharged)(desk.take)

    assert [one.subject for one in judged(app, code="CH501")] == ["driver.take"]

    alone = service("alone")

    @alone.on(OrderPlaced)
    def add(order: OrderPlaced) -> None:
        totals[order.order_id] = totals.get(order.order_id, 0) + 1

    assert not judged(alone, code="CH501")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (str, ""),
        (int, ""),
        (UUID, ""),
        (str | None, "can be missing"),
        (str | float, "JSON type number"),
        (Any, "unknown"),
    ],
)
def test_a_key_of_a_series_that_some_events_do_not_have_is_found(kind: Any, told: str) -> None:
    moved = create_model("CardMoved", __base__=Event, owner=(kind, ...))
    app = service("bank")

    @app.on(moved, sequential_by="owner")
    def book(card: Envelope) -> None: ...

    assert [told in one.text for one in judged(app, code="CH502")] == ([True] if told else [])


# -- CH6 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "all events", "own", "alert"])
def test_a_service_whose_dead_letters_nobody_is_told_of_is_found(kind: str) -> None:
    app, other = service("bank"), service("other")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    if kind == "all events":

        @app.on("#")
        def count(event: Envelope) -> None: ...

    if kind == "own":

        @app.dead_letter
        def tell(letter: DeadLetter) -> None: ...

    if kind == "alert":

        @other.on(DeadLetterRecorded)
        def alarm(alert: DeadLetterRecorded) -> None: ...

    found = judged(app, other, code="CH601")

    assert [one.subject for one in found] == (["bank"] if kind in ("none", "all events") else [])


def test_a_handler_that_swallows_every_error_is_found() -> None:
    app = service("bank")

    @app.on(OrderPlaced)
    def swallow(order: OrderPlaced) -> None:
        try:
            print(order)
        except Exception:
            print("never mind")

    @app.on(OrderConfirmed)
    def answer(order: OrderConfirmed) -> PaymentCharged | None:
        try:
            print(order)
        except ValueError:
            return None
        except Exception as error:
            raise RuntimeError("no answer") from error
        return PaymentCharged()

    assert [one.subject for one in judged(app, code="CH602")] == ["bank.swallow"]


class PaymentRefunded(Event):
    pass


def rejecting(answer: str) -> list[Service]:
    """A platform in which an order is charged and may be rejected; ``answer`` is what is done about it."""
    bank, kitchen = service("bank"), service("kitchen")
    options = {"no_undo": "it is a gift"} if answer == "no_undo" else {}

    @bank.on(OrderPlaced, **options)
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged()

    @kitchen.on(OrderPlaced)
    def cook(order: OrderPlaced) -> OrderRejected | None:
        return None

    if answer == "undo":

        @bank.on(OrderRejected, undoes=charge)
        def refund(charged: PaymentCharged) -> PaymentRefunded:
            return PaymentRefunded()

    if answer == "own":

        @bank.on(OrderRejected)
        def look_after(rejected: OrderRejected) -> None: ...

    if answer == "join":
        other = service("other")

        @other.join(OrderRejected, PaymentCharged)
        def give_back(rejected: OrderRejected, charged: PaymentCharged) -> None: ...

        return [bank, kitchen, other]
    return [bank, kitchen]


def test_an_effect_beside_a_failure_is_found_unless_somebody_answers_it_or_says_that_it_stands() -> None:
    (finding,) = judged(*rejecting("nothing"), code="CH603")

    assert finding.subject == "bank.charge"
    assert finding.text == (
        "nobody undoes payment.charged after order.rejected, which kitchen.cook can announce in the same story"
    )
    for answer in ("undo", "own", "join", "no_undo"):
        assert not judged(*rejecting(answer), code="CH603"), answer


def test_an_effect_that_led_to_the_failure_is_found_too() -> None:
    bank, kitchen = service("bank"), service("kitchen")

    @bank.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged()

    @kitchen.on(PaymentCharged)
    def cook(charged: PaymentCharged) -> OrderRejected | OrderConfirmed:
        return OrderConfirmed()

    assert [one.subject for one in judged(bank, kitchen, code="CH603")] == ["bank.charge"]


# -- CH7 -------------------------------------------------------------------------------------------------------------


def test_an_event_with_more_fields_than_the_budget_is_found() -> None:
    assert judged(classes=(Crowded,), code="CH701", fields=2)
    assert not judged(classes=(Crowded,), code="CH701", fields=3)


class Crowded(Event, type="room.crowded"):
    first: str = ""
    second: str = ""
    third: str = ""


class First(BaseModel):
    first: str = ""


def test_a_field_that_no_hearer_reads_is_found_unless_a_hearer_takes_the_whole_event() -> None:
    app = service("bank")

    @app.on(Crowded)
    def read(crowded: First) -> None: ...

    (finding,) = judged(app, announcing(Crowded), code="CH702")
    assert finding.text == "nobody reads second, third"

    @app.on("#")
    def count(event: Envelope) -> None: ...

    assert not judged(app, announcing(Crowded), code="CH702")


class Newer(Event, type="order.placed", version=2):
    pass


class Tolerable(Event, type="order.placed", version=2, readable_by=1):
    pass


class Newest(Event, type="order.placed", version=2, upcasters=[Upcast(1)]):
    pass


@pytest.mark.parametrize(
    ("read", "announced", "is_found"),
    [
        (OrderPlaced, Newer, True),
        (Newer, OrderPlaced, True),
        (OrderPlaced, Tolerable, False),
        (Newest, OrderPlaced, False),
        (OrderPlaced, OrderPlaced, False),
    ],
)
def test_a_handler_that_cannot_read_an_announced_version_is_found(
    read: type[Event], announced: type[Event], is_found: bool
) -> None:
    app = service("bank")

    def charge(order: Any) -> None: ...

    charge.__annotations__["order"] = read
    app.on(read)(charge)

    assert bool(judged(app, announcing(announced), code="CH703")) is is_found


def test_a_version_without_a_way_from_the_one_before_it_is_found() -> None:
    class Third(Event, type="bill.paid", version=3):
        pass

    class Second(Event, type="bill.paid", version=2, upcasters=[Upcast(1)]):
        pass

    (finding,) = judged(classes=(Third,), code="CH704")

    assert finding.text == "it is version 3, and nothing reads version 2"
    assert not judged(classes=(Third, Second), code="CH704")


def test_a_reader_that_forbids_unknown_fields_is_found() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")

        order_id: str = ""

    app = service("bank")

    @app.on(OrderPlaced)
    def charge(order: Strict) -> None: ...

    @app.on(OrderConfirmed)
    def confirm(order: OrderConfirmed) -> None: ...

    assert [one.subject for one in judged(app, code="CH705")] == ["bank.charge"]


class Address(BaseModel):
    number: int = 2**53


class PartWeighed(Event):
    """Good twins of all fields."""

    small: int = 2**53 - 1
    bounded: int = Field(0, le=1000)
    wait_seconds: float = 0.0
    seconds: timedelta = timedelta(0)
    zoned: AwareDatetime | None = None
    checked: datetime | None = None
    password_changed_at: str = ""
    card_number: Annotated[str, Redacted] = ""
    token_count: int = 0

    @field_serializer("seconds")
    def in_seconds(self, value: timedelta) -> float:
        return value.total_seconds()

    @field_validator("checked")
    @classmethod
    def with_a_zone(cls, value: datetime | None) -> datetime | None:
        return value


class IdGiven(Event):
    number: int = Field(0, le=2**60)


class IdChosen(Event):
    number: Literal[1, 9007199254740993] = 1


class HouseBuilt(Event):
    address: Address = Address()


class AlarmDelayed(Event):
    delays: list[timedelta] = []


class ClockRead(Event):
    at: datetime | None = None


class UserAdded(Event):
    password: str = ""


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (IdGiven, "CH706"),
        (IdChosen, "CH706"),
        (HouseBuilt, "CH706"),
        (AlarmDelayed, "CH707"),
        (ClockRead, "CH708"),
        (UserAdded, "CH709"),
    ],
)
def test_a_field_that_others_misread_or_may_not_see_is_found(event: type[Event], code: str) -> None:
    assert of_class(event) == {code}


def test_the_good_twins_of_these_fields_are_not_found() -> None:
    assert of_class(PartWeighed) == set()


# -- CH8 -------------------------------------------------------------------------------------------------------------


def measured(function: Callable[..., Any]) -> Any:
    @wraps(function)
    def inner(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return inner


def test_a_decorator_above_the_declaration_is_found_and_one_below_is_not() -> None:
    app = service("bank")

    @measured
    @app.on(OrderPlaced)
    def above(order: OrderPlaced) -> None: ...

    @app.on(OrderPlaced)
    @measured
    def below(order: OrderPlaced) -> None: ...

    @app.on(OrderPlaced, name="first")
    @app.on(OrderPlaced, name="second")
    def twice(order: OrderPlaced) -> None: ...

    (finding,) = judged(app, code="CH801")

    assert finding.subject == "bank.above"
    assert "@measured" in finding.text


def test_a_handler_without_a_return_annotation_is_found_with_the_one_to_write() -> None:
    app = service("bank")

    @app.on(OrderPlaced)
    def silent(order: OrderPlaced):
        print(order)

    @app.on(OrderConfirmed)
    def unclear(order: OrderConfirmed, context: Context):
        context.announce(OrderPlaced())

    @app.on(PaymentCharged)
    def clear(charged: PaymentCharged) -> None: ...

    silent_one, unclear_one = judged(app, code="CH802")

    assert (silent_one.subject, silent_one.fix) == ("bank.silent", "write -> None: it returns nothing")
    assert (unclear_one.subject, unclear_one.fix) == ("bank.unclear", RULES["CH802"].fix)


def test_a_parameter_that_is_never_filled_is_found() -> None:
    app = service("bank")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced, gateway: Any = None, times: int = 3, context: Context = None) -> None: ...  # type: ignore[assignment]

    (finding,) = judged(app, code="CH803")

    assert "parameter gateway" in finding.text


# -- the rules themselves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", RULES)
def test_every_rule_says_in_a_sentence_why_and_names_a_way_out(code: str) -> None:
    rule = RULES[code]

    assert rule.code == code
    assert rule.why.endswith(".")
    assert rule.fix
    assert rule.summary[0].islower()
    assert not rule.summary.endswith(".")
