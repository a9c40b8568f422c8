"""The map: which events there are, who announces them, and who hears them."""

import pytest

from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.observe.likeness import alike
from choreo.observe.map import Announcer, FieldReader, Hearer, Map, MappedEvent, MappedService, drawn
from tests.unit.metropolis import EVENTS, SERVICES, metropolis

JOIN = {"parts": ["order.confirmed", "payment.charged"], "unless": ["payment.failed"]}

ORDER = ServiceDescription("order", (), ("order.placed",))
PAYMENT = ServiceDescription(
    "payment",
    (
        HandlerDescription(
            "payment.charge",
            ("order.placed",),
            ("payment.charged", "payment.failed"),
            reads={"order.placed": ("total_cents",)},
        ),
    ),
)
DRIVER = ServiceDescription(
    "driver",
    (
        HandlerDescription(
            "driver.assign",
            ("order.confirmed", "payment.charged", "payment.failed"),
            ("driver.assigned",),
            ("order.delayed",),
            {"order.confirmed": ("minutes",), "payment.charged": None},
            JOIN,
        ),
    ),
    on_dead_letter=("operator.alarmed",),
)
ANALYTICS = ServiceDescription("analytics", (HandlerDescription("analytics.count", ("#",), (), reads={"#": None}),))


def event(shown: Map, kind: str) -> MappedEvent:
    found = shown.event(kind)
    assert found is not None
    return found


def test_fields_that_choreo_reads_for_a_handler_are_read_and_its_pace_is_told():
    handlers = (
        HandlerDescription(
            "stock.book",
            ("order.placed",),
            reads={"order.placed": ("items",)},
            concurrency=2,
            sequential_by="customer_id",
            key_fields={"order.placed": "customerId"},
        ),
        HandlerDescription("stock.index", ("order.#",), batch=100),
        HandlerDescription(
            "stock.pack",
            ("order.placed", "order.paid"),
            reads={"order.placed": (), "order.paid": ()},
            join={
                "parts": ["order.placed", "order.paid"],
                "keys": {"order.placed": "number"},
                "several": {"parcels": {"of": "order.placed", "per": "parcels"}},
            },
        ),
    )

    shown = drawn([ORDER, ServiceDescription("stock", handlers)])

    [book, index, pack] = event(shown, "order.placed").heard_by
    assert (book.reads, book.uses, book.pace) == (
        ("items", "customerId"),
        ("items", "customerId"),
        ("2 at a time", "in turn by customer_id"),
    )
    assert (index.reads, index.pace) == (None, ("in batches of 100",))
    assert (pack.reads, pack.uses) == (("number", "parcels"), ("number", "parcels"))
    assert FieldReader("stock.book", "order.placed", True) in shown.readers("customerId")


def test_each_event_has_those_who_announce_and_those_who_hear_it():
    shown = drawn([ORDER, PAYMENT, DRIVER])

    assert event(shown, "order.placed") == MappedEvent(
        "order.placed",
        (Announcer("order", "declared"),),
        (Hearer("payment.charge", "order.placed", "on", ("total_cents",), uses=("total_cents",)),),
    )
    assert event(shown, "payment.charged").announced_by == (Announcer("payment.charge"),)
    assert event(shown, "payment.charged").heard_by == (Hearer("driver.assign", "payment.charged", "join", None),)
    cancelled = Hearer("driver.assign", "payment.failed", "unless", (), uses=())
    assert event(shown, "payment.failed").heard_by == (cancelled,)
    assert event(shown, "order.delayed").announced_by == (Announcer("driver.assign", "on_timeout"),)
    assert event(shown, "operator.alarmed").announced_by == (Announcer("driver", "dead_letter"),)
    assert event(shown, "driver.assigned").is_unheard
    assert event(shown, "order.confirmed").announced_by == ()
    assert [service.name for service in shown.services] == ["driver", "order", "payment"]


def test_a_handler_that_hears_a_pattern_hears_each_event_that_it_matches():
    shown = drawn([ORDER, PAYMENT, ANALYTICS], types=["menu.changed"])

    assert [hearer.name for hearer in event(shown, "order.placed").by_name] == ["payment.charge"]
    assert [hearer.is_wildcard for hearer in event(shown, "order.placed").heard_by] == [True, False]
    assert event(shown, "menu.changed").heard_by == (Hearer("analytics.count", "#", "on", None),)
    assert [handler.name for handler in shown.wildcards] == ["analytics.count"]


def test_a_story_follows_an_event_and_is_no_handler_of_it():
    story = HandlerDescription("desk.delivery", ("order.placed",), (), ("story.overdue",), join={"story": {}})
    shown = drawn([ORDER, ServiceDescription("desk", (story,))])

    assert [hearer.how for hearer in event(shown, "order.placed").in_stories] == ["story"]
    assert event(shown, "order.placed").by_name == []
    assert event(shown, "story.overdue").announced_by == (Announcer("desk.delivery", "on_timeout"),)


def test_what_a_service_was_seen_to_announce_is_on_the_map_unless_it_says_so():
    shown = drawn([ORDER, PAYMENT], seen={"order": ["order.placed", "orders.placed"]})

    assert event(shown, "order.placed").announced_by == (Announcer("order", "declared"),)
    assert event(shown, "orders.placed").announced_by == (Announcer("order", "seen"),)


def test_a_misspelling_is_noticed_on_either_side():
    shown = drawn([ORDER, PAYMENT, ANALYTICS], seen={"shop": ["orders.placed"]})
    assert event(shown, "orders.placed").similar == "order.placed", "only # hears it"
    assert event(shown, "order.placed").similar == ""

    misheard = ServiceDescription("loyalty", (HandlerDescription("loyalty.award", ("payment.charget",)),))
    shown = drawn([PAYMENT, misheard])
    assert event(shown, "payment.charget").similar == "payment.charged", "nobody announces it"


@pytest.mark.parametrize(
    ("one", "others", "like"),
    [
        ("orders.placed", ["order.placed", "order.paid"], "order.placed"),
        ("order.palced", ["order.placed"], "order.placed"),
        ("orderplaced", ["order.placed"], "order.placed"),
        ("order.confirmedby_restaurant", ["order.confirmed_by_restaurant"], "order.confirmed_by_restaurant"),
        ("order.rejected_by_restaurant", ["order.confirmed_by_restaurant"], ""),
        ("payment.charged", ["payment.refunded", "parcel.charged", "payment.failed"], ""),
        ("order.placed", [], ""),
    ],
)
def test_types_are_alike_if_a_misspelling_explains_the_difference(one: str, others: list[str], like: str):
    assert alike(one, others) == like


def test_who_reads_a_field_is_told_and_who_may():
    shown = drawn([ORDER, PAYMENT, DRIVER, ANALYTICS])

    assert set(shown.readers("total_cents")) == {
        FieldReader("payment.charge", "order.placed"),
        FieldReader("driver.assign", "payment.charged", is_certain=False),
        FieldReader("analytics.count", "#", is_certain=False),
    }
    assert len(shown.readers("total_cents")) == 3


def test_two_versions_of_a_service_are_put_together():
    older = ServiceDescription(
        "payment", (HandlerDescription("payment.charge", ("order.placed", "order.paid"), ("payment.made",)),)
    )
    shown = drawn([PAYMENT, older])

    assert [one.name for one in shown.handlers] == ["payment.charge"]
    assert [one.name for one in event(shown, "order.paid").heard_by] == ["payment.charge"]
    assert event(shown, "payment.made").announced_by == (Announcer("payment.charge"),)
    assert event(shown, "payment.charged").announced_by == (Announcer("payment.charge"),)


def test_handlers_that_do_not_say_what_they_announce_are_named():
    quiet = ServiceDescription("loyalty", (HandlerDescription("loyalty.award", ("payment.charged",)),))

    assert drawn([PAYMENT, quiet, DRIVER]).unsaid == ["loyalty.award"]


def test_a_part_of_the_map_is_about_services_handlers_or_types():
    shown = drawn([ORDER, PAYMENT, DRIVER])

    assert [one.type for one in shown.about("payment").events] == ["order.placed", "payment.charged", "payment.failed"]
    assert [one.type for one in shown.about("driver.assigned").events] == ["driver.assigned"]
    assert [one.name for one in shown.about("driver.assigned").services] == ["driver"]
    assert shown.about("payment.charge").events == shown.about("payment").events
    assert shown.about() is shown
    assert {"order", "payment.charge", "order.placed"} <= shown.names


def test_what_is_known_of_a_service_goes_before_what_its_description_tells():
    alive = MappedService("payment", 2, ("1.4",))

    assert drawn([PAYMENT], services=[alive, MappedService("web", 0)]).services == (alive, MappedService("web", 0))


def test_a_large_platform_is_on_the_map_as_a_whole():
    shown = drawn(metropolis(), types=EVENTS)

    assert [one.type for one in shown.events] == sorted(EVENTS)
    assert len(EVENTS) == 30
    assert [one.name for one in shown.services] == sorted(SERVICES)
    assert len(shown.to_dict()["events"]) == 30


PAGER = ServiceDescription("pager", (HandlerDescription("pager.page", ("dead_letter.recorded",), ()),))


def test_alerts_are_on_the_map_if_a_handler_hears_them_and_nobody_need_declare_them():
    (alert,) = [
        event
        for event in drawn([PAYMENT, PAGER]).events
        if event.type not in ("order.placed", "payment.charged", "payment.failed")
    ]

    assert (alert.type, alert.announced_by) == ("dead_letter.recorded", (Announcer("choreo", "itself"),))
    assert [hearer.name for hearer in alert.heard_by] == ["pager.page"]
    assert alert.similar == ""
    assert "handler.paused" not in drawn([PAYMENT, PAGER, ANALYTICS]).names
