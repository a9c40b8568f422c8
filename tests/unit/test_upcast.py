"""Upcasters: their declaration at the class, and the data that they make of older versions."""

from functools import partial
from typing import Any

import pytest
from pydantic import Field

from choreo import DeclarationError, Event, Upcast, UpcastError, VersionError
from choreo.events.upcast import upcast
from choreo.events.versions import classes_of, covers, versions_of
from tests.unit.events import OrderPlaced, envelope


def with_parts(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data.pop("name").partition(" ")
    return {**data, "first": first, "last": last}


class GuestInvited(
    Event,
    version=4,
    upcasters=[
        Upcast(1, renamed={"guest": "name", "street": "address.street"}, defaults={"tags": []}),
        Upcast(2, with_parts),
        Upcast(3, dropped=["coupon"]),
    ],
):
    first: str
    last: str
    address: dict[str, str]
    tags: list[str]
    coupon: str = ""


def invited(version: int, **data: Any):
    event = envelope(OrderPlaced(customer_id="eve"))
    return type(event)(
        **{name: getattr(event, name) for name in ("id", "source", "subject", "time", "correlation_id")},
        type=GuestInvited.event_type,
        version=version,
        data=data,
    )


def made_by(step: Upcast, **data: Any) -> dict[str, Any]:
    return upcast([step], invited(step.version, **data), "GuestInvited")


def test_each_version_is_read_through_all_steps_after_it():
    first = GuestInvited.read(invited(1, guest="Ada Byron", street="Main St", coupon="X"))
    second = GuestInvited.read(invited(2, name="Ada Byron", address={"street": "Main St"}, tags=[], coupon="X"))
    newest = GuestInvited(first="Ada", last="Byron", address={"street": "Main St"}, tags=[])

    assert first == second == newest


def test_what_was_announced_stays_as_it_is():
    event = invited(1, guest="Ada Byron", street="Main St")

    read = GuestInvited.read(event)

    assert event.data == {"guest": "Ada Byron", "street": "Main St"}
    assert read.meta is event


def test_a_default_is_a_copy_of_its_own():
    one, other = (GuestInvited.read(invited(1, guest="Ada Byron", street="Main St")) for _ in range(2))

    one.tags.append("late")

    assert other.tags == []


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        (Upcast(1, renamed={"total": "total_cents"}), {"total": 5}, {"total_cents": 5}),
        (Upcast(1, renamed={"total": "total_cents"}), {}, {}),
        (Upcast(1, renamed={"total": "total_cents"}), {"total": 5, "total_cents": 6}, {"total_cents": 6}),
        (Upcast(1, renamed={"a": "b", "b": "a"}), {"a": 1, "b": 2}, {"a": 2, "b": 1}),
        (Upcast(1, renamed={"street": "address.street"}), {"street": "x"}, {"address": {"street": "x"}}),
        (Upcast(1, renamed={"a.street": "street"}, dropped=["a"]), {"a": {"street": "x"}}, {"street": "x"}),
        (Upcast(1, renamed={"a.street": "street"}), {"a": "no object"}, {"a": "no object"}),
        (Upcast(1, defaults={"currency": "EUR"}), {}, {"currency": "EUR"}),
        (Upcast(1, defaults={"currency": "EUR"}), {"currency": None}, {"currency": None}),
        (Upcast(1, defaults={"address.country": "DE"}), {"address": None}, {"address": {"country": "DE"}}),
        (Upcast(1, renamed={"total": "net"}, dropped=["net"]), {"total": 5, "net": 4}, {"net": 5}),
        (Upcast(1), {"a": 1}, {"a": 1}),
    ],
)
def test_a_step_says_what_has_changed(step, before, after):
    assert made_by(step, **before) == after


def test_a_function_gets_a_copy_of_its_own():
    kept = {"inner": {}}
    step = Upcast(1, lambda _: kept)

    made = upcast([step, Upcast(2, defaults={"inner.a": 1})], invited(1), "GuestInvited")

    assert made == {"inner": {"a": 1}}
    assert kept == {"inner": {}}


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Upcast(1, with_parts), r"with_parts of GuestInvited \(tests/unit/test_upcast.py:\d+\).* KeyError: 'name'"),
        (Upcast(1, lambda _: None), "it returned NoneType, not the data as a dict"),
        (Upcast(1, defaults={"a.b": 1}), "a is no object, so a.b has no place in it"),
    ],
)
def test_an_upcaster_that_fails_is_named(step, words):
    with pytest.raises(UpcastError, match=words) as raised:
        made_by(step, a="text")

    assert isinstance(raised.value.__cause__, Exception)


@pytest.mark.parametrize(
    ("event", "version", "words"),
    [
        (
            GuestInvited,
            5,
            "has version 5, and GuestInvited reads the versions 1 to 4. Deploy code that knows version",
        ),
        (OrderPlaced, 2, "has version 2, and OrderPlaced reads version 1. Deploy code that knows version 2, "),
    ],
)
def test_a_newer_version_is_never_read_as_an_older_one(event, version, words):
    with pytest.raises(VersionError, match=words):
        event.read(envelope(OrderPlaced(customer_id="eve"), version=version))


def test_an_older_version_without_an_upcaster_is_not_read():
    class BillSent(Event, version=2):
        total: int = 0

    with pytest.raises(VersionError, match=r"BillSent reads version 2. Deploy Upcast\(1, ...\)"):
        BillSent.read(envelope(BillSent(), version=1))


def test_code_of_a_version_that_can_read_a_newer_one_reads_it():
    class BillPaid(Event, version=3, readable_by=2):
        total: int

    class BillPaidBefore(Event, type="bill.paid", version=2):
        total: int

    class BillPaidFirst(Event, type="bill.paid"):
        total: int

    sent = BillPaid(total=5)
    event = sent.sealed(id="e-1", source="shop", subject="B-1", cause=None, time=invited(1).time)

    assert event.extensions == {"choreoreadableby": 2}
    assert BillPaidBefore.read(event).total == 5
    with pytest.raises(VersionError):
        BillPaidFirst.read(event)


def test_the_classes_of_a_type_and_the_versions_that_they_read():
    class BillShared(Event, version=3, upcasters=[Upcast(2)]):
        """It reads two versions."""

    class BillSharedFirst(Event, type="bill.shared"):
        """It reads its own."""

    assert classes_of("bill.shared") == (BillSharedFirst, BillShared)
    assert [covers(BillShared, version) for version in (1, 2, 3, 4)] == [False, True, True, False]
    assert versions_of(BillShared) == (2, 3)
    assert versions_of(GuestInvited) == (1, 2, 3, 4)


def test_the_steps_can_be_told_as_json():
    renamed, function, _ = (step.described() for step in GuestInvited.event_upcasters)

    assert renamed["renamed"] == {"guest": "name", "street": "address.street"}
    assert (renamed["from"], renamed["to"], renamed["function"], renamed["dropped"]) == (1, 2, None, [])
    assert renamed["place"].startswith("tests/unit/test_upcast.py:")
    assert function["function"] == "tests.unit.test_upcast.with_parts"
    assert Upcast(1, partial(with_parts)).described()["function"].endswith("partial")


def test_a_described_step_works_without_its_code_unless_it_is_a_function():
    renamed, function = (Upcast.from_described(step.described()) for step in GuestInvited.event_upcasters[:2])

    assert made_by(renamed, guest="Ada") == {"name": "Ada", "tags": []}
    with pytest.raises(UpcastError, match=r"tests.unit.test_upcast.with_parts is code of the service"):
        made_by(function, name="Ada")


# -- what is refused when the module is imported ---------------------------------------------------------------------


def declared(version: int, *upcasters: Any, **options: Any) -> type[Event]:
    class ParcelSent(Event, version=version, upcasters=upcasters, **options):
        weight: int
        carrier: str = Field(default="", alias="carrierName")

    return ParcelSent


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda: declared(4, Upcast(1), Upcast(3)), r"is version 4, .* makes version 3 of version 2. Add Upcast\(2, "),
        (lambda: declared(3, Upcast(1)), r"no upcaster makes version 3 of version 2"),
        (lambda: declared(1, Upcast(1)), r"Upcast\(1\) makes version 2, and the class is version 1. Write version=2"),
        (lambda: declared(2, Upcast(1), Upcast(1)), r"Upcast\(1\) is there twice"),
        (lambda: declared(2, with_parts), r"holds <function with_parts .* which is no Upcast"),
        (lambda: declared(2, Upcast(1, renamed={"kilos": "wieght"})), "reads no such field: did you mean 'weight'"),
        (lambda: declared(2, Upcast(1, defaults={"carrier": "DHL"})), "did you mean 'carrierName'"),
        (lambda: declared(3, Upcast(1, renamed={"a": "b"}), Upcast(2, renamed={"b": "c"})), "'c', .* no such field"),
        (lambda: declared(2, readable_by=2), "readable_by=2 is no version before 2"),
        (lambda: Upcast("1"), r"Upcast\('1', ...\): it takes the version"),
        (lambda: Upcast(0), "from 1"),
        (lambda: Upcast(1, "with_parts"), "'with_parts' is no function"),
        (lambda: Upcast(1, with_parts, dropped=["a"]), "a function does all of the step"),
        (lambda: Upcast(1, renamed=["a"]), "is no dict"),
        (lambda: Upcast(1, dropped="coupon"), r'Write dropped=\["name"\]'),
        (lambda: Upcast(1, renamed={"a": "b."}), "'b.' is no name of a field"),
        (lambda: Upcast(1, renamed={"a": "c", "b": "c"}), "the new name 'c' is there twice"),
        (lambda: Upcast(1, renamed={"a": "b"}, dropped=["a"]), "the old name 'a' is there twice"),
        (lambda: Upcast(1, defaults={"a": object()}), "is no JSON"),
    ],
)
def test_a_wrong_declaration_is_refused_with_the_way_out(declare, words):
    with pytest.raises(DeclarationError, match=words):
        declare()


@pytest.mark.parametrize(
    "steps",
    [
        [Upcast(1, renamed={"a": "b"}), Upcast(2, renamed={"b": "weight"})],
        [Upcast(1, renamed={"a": "b.c"}), Upcast(2, renamed={"b": "carrierName"})],
        [Upcast(1, renamed={"a": "b"}), Upcast(2, dropped=["b"])],
        [Upcast(1, renamed={"a": "b"}), Upcast(2, with_parts)],
        [Upcast(2, defaults={"weight": 1}), Upcast(1)],
    ],
)
def test_a_field_may_have_other_names_on_the_way(steps):
    assert versions_of(declared(3, *steps)) == (1, 2, 3)


def test_upcasters_are_listed():
    with pytest.raises(DeclarationError, match=r"Write upcasters=\[Upcast\(1, ...\)\]"):

        class ParcelLost(Event, version=2, upcasters=Upcast(1)):
            pass
