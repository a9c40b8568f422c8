"""What a change of an event breaks: in both directions, and only for readers that read the field."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from choreo import Event, Upcast
from choreo.contracts.changes import changes
from choreo.contracts.rules import RULES, WRITTEN_BEFORE, WRITTEN_NOW
from choreo.contracts.running import Release, Running
from choreo.findings import ERROR, NOTE, WARNING, Finding
from tests.unit.contracts import event, loyalty, payment, state, view
from tests.unit.stage import service

INT, TEXT = (int, ...), (str, ...)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    sku: str
    price: int


class WideItem(BaseModel):
    sku: str
    price: float


def judged(before: type[Event], now: type[Event], read: Any = None, reads: Any = None) -> list[Finding]:
    """What is found if the class becomes another one. ``read`` and ``reads`` are the view before and now."""
    old = state(before, payment(before), loyalty(before, read))
    return list(changes(old, state(now, payment(now), loyalty(now, reads or read))))


def breaking(before: type[Event], now: type[Event], read: Any = None, reads: Any = None) -> dict[str, str]:
    return {found.rule: found.text for found in judged(before, now, read, reads) if found.level == ERROR}


#: Fields before, fields now, and the rules that they break: (for what is written now, for what was written before).
TABLE: dict[str, tuple[dict[str, Any], dict[str, Any], set[str], set[str]]] = {
    "add optional": ({}, {"x": (int | None, None)}, set(), set()),
    "add defaulted": ({}, {"x": (int, 3)}, set(), set()),
    "add required": ({}, {"x": INT}, set(), {"field-required"}),
    "remove required": ({"x": INT}, {}, {"field-removed"}, set()),
    "remove optional": ({"x": (int | None, None)}, {}, set(), set()),
    "rename": ({"x": INT}, {"y": INT}, {"field-renamed"}, {"field-required"}),
    "accept null": ({"x": INT}, {"x": (int | None, ...)}, {"null-added"}, set()),
    "refuse null": ({"x": (int | None, ...)}, {"x": INT}, set(), {"null-refused"}),
    "widen": ({"x": INT}, {"x": (float, ...)}, {"type-changed"}, set()),
    "narrow": ({"x": (float, ...)}, {"x": INT}, set(), {"type-changed"}),
    "other type": ({"x": INT}, {"x": TEXT}, {"type-changed"}, {"type-changed"}),
    "add a value": ({"x": (Literal["a"], ...)}, {"x": (Literal["a", "b"], ...)}, {"value-added"}, set()),
    "remove a value": ({"x": (Colour, ...)}, {"x": (Literal["red"], ...)}, set(), {"value-removed"}),
    "relax": ({"x": (int, Field(gt=0))}, {"x": INT}, {"bound-widened"}, set()),
    "tighten": ({"x": INT}, {"x": (int, Field(gt=0))}, set(), {"bound-tightened"}),
    "in a list": ({"x": (list[Item], ...)}, {"x": (list[WideItem], ...)}, {"type-changed"}, set()),
    "in a map": ({"x": (dict[str, int], ...)}, {"x": (dict[str, str], ...)}, {"type-changed"}, {"type-changed"}),
    "list to set": ({"x": (list[int], ...)}, {"x": (set[int], ...)}, set(), set()),
    "pattern": ({"x": TEXT}, {"x": (Annotated[str, Field(pattern="^A")], ...)}, set(), {"bound-tightened"}),
    # choreo writes every field, so that nothing can be missing.
    "give a default": ({"x": INT}, {"x": (int, 3)}, set(), set()),
    "take a default away": ({"x": (int, 3)}, {"x": INT}, set(), set()),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_change_breaks_readers_of_the_whole_event_in_the_direction_of_the_table(name):
    before, now, rolling, backlog = TABLE[name]

    old, new = event(id=INT, **before), event(id=INT, **now)

    # Readers of before and what is written now: the new code has no reader. And the other way round.
    forward = changes(state(old, payment(old), loyalty(old)), state(new, payment(new)))
    backward = changes(state(old, payment(old)), state(new, payment(new), loyalty(new)))
    assert {found.rule for found in forward if found.level == ERROR} == rolling
    assert {found.rule for found in backward if found.level == ERROR} == backlog


def test_only_readers_that_read_the_field_are_hurt():
    before, now = event(customer=TEXT, amount=INT), event(customer=TEXT)

    hurt = breaking(before, now, view(amount=INT))
    spared = judged(before, now, view(customer=TEXT))

    assert hurt["field-removed"] == "amount removed; read by loyalty.award_points (view)"
    assert not [found for found in spared if found.level == ERROR]
    (told,) = [found for found in spared if found.rule == "field-removed"]
    assert (told.level, told.text) == (WARNING, "amount removed; no reader here reads it")


def test_a_reader_that_takes_its_default_is_told_of():
    found = judged(event(customer=TEXT, amount=INT), event(customer=TEXT), view(amount=(int, 0)))

    (told,) = [one for one in found if one.rule == "default-read"]
    assert told.level == WARNING
    assert told.text == "amount removed, so that a default is read; read by loyalty.award_points (view)"


def test_a_rename_without_a_word_breaks_and_names_both():
    found = breaking(event(total=INT), event(total_cents=INT))

    assert found["field-renamed"] == "total renamed to total_cents; read by loyalty.award_points"
    assert found["field-required"].startswith("total_cents is needed now, and older events lack it; read by")


def test_a_rename_with_an_upcaster_is_safe_if_readers_are_deployed_first_and_the_line_cites_it():
    now = event(version=2, upcasters=[Upcast(1, renamed={"total": "total_cents"})], total_cents=INT)

    found = judged(event(total=INT), now)

    (order,) = [one for one in found if one.level != NOTE]
    assert (order.rule, order.level) == ("deploy-order", WARNING)
    assert "version 2 is not read by loyalty of before; here it is, and version 1 through Upcast(1) at" in order.text
    assert "tests/unit/test_contract_changes.py:" in order.text
    assert order.fix == "deploy loyalty before payment"


@pytest.mark.parametrize(("workers", "is_said"), [("new", False), ("old", True), ("both", True), ("none", True)])
def test_nothing_is_said_of_the_order_once_all_workers_that_run_read_the_new_version(workers: str, is_said: bool):
    before, now = event(total=INT), event(version=2, upcasters=[Upcast(1, renamed={"total": "cents"})], cents=INT)
    old, new = state(before, payment(before), loyalty(before)), state(now, payment(now), loyalty(now))
    running = {"old": loyalty(before), "new": loyalty(now)}
    releases = [Release(app.describe(), version, 1) for version, app in running.items() if workers in (version, "both")]

    found = changes(old, new, Running(releases))

    assert ("deploy-order" in [one.rule for one in found]) == is_said


def test_a_view_profits_from_the_upcasters_of_the_class_that_its_handler_hears():
    now = event(version=2, upcasters=[Upcast(1, renamed={"total": "total_cents"})], total_cents=INT)

    found = judged(event(total=INT), now, view(total=INT), view(total_cents=INT))

    assert {one.rule for one in found if one.level != NOTE} == {"deploy-order"}


def test_a_new_version_without_upcasters_breaks_in_both_directions():
    found = breaking(event(total=INT), event(version=2, total=INT))

    assert found["version-unread"] == "version 2 is not read, only 1; read by loyalty.award_points"
    assert found["upcaster-missing"] == "version 1 is not read, only 2; read by loyalty.award_points"


def test_a_new_version_that_older_readers_can_read_breaks_nobody():
    now = event(version=2, upcasters=[Upcast(1, defaults={"x": 1})], readable_by=1, total=INT, x=INT)

    found = judged(event(total=INT), now)

    assert [one.rule for one in found] == ["version-upcast"], "also nobody has to be deployed first"


def test_a_handler_that_an_event_only_cancels_reads_nothing_of_it():
    before, now = event(total=INT), event(version=2, other=TEXT)

    class OrderPlaced(Event):
        pass

    class OrderPacked(Event):
        pass

    app = service("driver")

    @app.join(OrderPlaced, OrderPacked, unless=before)
    def assign(placed: OrderPlaced, packed: OrderPacked) -> None: ...

    old = state(before, payment(before), app)

    assert not [one for one in changes(old, state(now, payment(now), app)) if one.level == ERROR]


def test_the_key_of_a_series_is_read_also_if_the_handler_does_not():
    before, now = event(total=INT, account=(str, "")), event(total=INT)
    app = service("loyalty")

    @app.on(before, sequential_by="account")
    def award(spending: view(total=INT)) -> None: ...

    old = state(before, payment(before), app)
    found = {one.rule: one for one in changes(old, state(now, payment(now), app)) if one.level == ERROR}

    assert "account" in found["field-removed"].text
    assert "loyalty.award" in found["field-removed"].text


def test_the_key_of_a_join_is_read_also_if_the_handler_does_not():
    before, now = event(order_id=TEXT), event(total=INT)

    class OrderPlaced(Event):
        order_id: str

    class OrderPacked(Event):
        order_id: str

    app = service("driver")

    @app.join(OrderPlaced, OrderPacked, unless=before, by="order_id")
    def assign(placed: OrderPlaced, packed: OrderPacked) -> None: ...

    found = changes(state(before, payment(before), app), state(now, payment(now), app))

    assert "order_id removed; read by driver.assign" in [one.text for one in found if one.level == ERROR]


def test_a_change_without_a_new_version_is_told_of():
    found = judged(event(total=INT), event(total=TEXT))

    assert [one.level for one in found if one.rule == "version-unchanged"] == [WARNING]
    assert not [one for one in judged(event(total=INT), event(total=INT)) if one.rule == "version-unchanged"]
    assert "version-lowered" in breaking(event(version=3, total=INT), event(version=2, total=INT))


def test_versions_of_which_only_a_file_is_left_are_judged_as_well():
    first, before = event(amount=INT), event(version=2, upcasters=[Upcast(1, dropped=["amount"])], total=INT)
    now = event(version=2, total=INT)
    old = state(before, payment(before), loyalty(before))
    files = [*state(first).events, *old.events]

    found = changes(type(old)("main", files, old.services), state(now, payment(now), loyalty(now)))

    assert {one.text for one in found if one.level == ERROR} == {
        "version 1 is not read, only 2; read by loyalty.award_points"
    }


def test_what_was_broken_before_is_no_change():
    odd = event(total=INT)

    found = judged(odd, odd, view(amount=INT))

    assert not found


def test_a_reader_that_refuses_unknown_fields_is_hurt_by_a_new_one():
    class Strict(BaseModel, extra="forbid"):
        total: int

    found = breaking(event(total=INT), event(total=INT, more=(int, 1)), Strict)

    assert found["field-refused"].startswith("more is written, and unknown fields are refused")


def test_an_event_that_is_gone_breaks_those_that_still_hear_it():
    charged = event(total=INT)
    old = state(charged, payment(charged), loyalty(charged))

    (heard,) = changes(old, state(None, loyalty(charged)))
    (unheard,) = changes(old, state(None))

    assert (heard.rule, heard.level) == ("event-removed", ERROR)
    assert heard.text.endswith("heard by loyalty.award_points")
    assert unheard.level == NOTE


def test_an_event_that_nobody_announces_any_more_is_told_of():
    charged = event(total=INT)

    found = list(changes(state(charged, payment(charged), loyalty(charged)), state(charged, loyalty(charged))))

    assert [one.rule for one in found] == ["announcer-removed"]


def test_every_rule_is_in_the_docs_with_its_level():
    text = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text()

    rows = [f'| <a id="{name}"></a>`{name}` | {rule.level} | {rule.summary} |' for name, rule in RULES.items()]
    assert [line for line in text.splitlines() if line.startswith("| <a id=")] == rows
    assert {*WRITTEN_NOW.values(), *WRITTEN_BEFORE.values()} <= RULES.keys()
