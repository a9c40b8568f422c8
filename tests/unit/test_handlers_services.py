"""The reference services, called as the plain functions that they are."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

import choreo
from choreo import Context, DeadLetterRecorded, Envelope, Event, PermanentFailure, PublishError, StoryOverdue
from choreo.declare.join import Join
from choreo.testing import Recorder, context, recorder
from handlers import analytics, driver, events, ledger, loyalty, notification, order, payment, restaurant

SERVICES = {
    module.app.service_name: module for module in (order, restaurant, payment, driver, notification, analytics, loyalty)
}

PLACED = events.OrderPlaced(customer_id="alice", restaurant_id="pizza-palace", items=["margherita"], total_cents=2599)
CONFIRMED = events.OrderConfirmedByRestaurant(customer_id="alice", restaurant_id="pizza-palace", estimated_minutes=15)
REJECTED = events.OrderRejectedByRestaurant(customer_id="alice", restaurant_id="night-owl", reason="closed")
CHARGED = events.PaymentCharged(customer_id="alice", amount_cents=2599, payment_id="PAY-1")
REFUNDED = events.PaymentRefunded(customer_id="alice", amount_cents=2599, payment_id="PAY-1")
FAILED = events.PaymentFailed(customer_id="alice", reason="the card has expired")
DELAYED = events.OrderDelayed(customer_id="alice", missing="the payment")
ASSIGNED = events.DriverAssigned(customer_id="alice", driver_id="DRV-42", estimated_minutes=27)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has database files of its own."""
    monkeypatch.setenv("CHOREO_DATA", str(tmp_path))
    return tmp_path


def delivery(key: str = "some.handler/1", subject: str = "ORD-1", attempt: int = 1) -> Context:
    """A delivery; two with the same key are one and the same work."""
    return context(subject, handler=key.partition("/")[0], attempt=attempt, idempotency_key=key)


@pytest.fixture
def told() -> Iterator[Recorder]:
    with recorder(order.app) as told:
        yield told


# -- order -----------------------------------------------------------------------------------------------------------


def test_an_order_is_kept_and_announced_under_its_id(told: Recorder) -> None:
    order_id = order.place_order("alice", "pizza-palace", ["margherita"], 2599)

    (announced,) = told.events
    assert (announced.type, announced.source, announced.subject) == ("order.placed", "order", order_id)
    assert events.OrderPlaced.read(announced) == PLACED
    (kept,) = order.ledger.rows("SELECT * FROM orders")
    assert (kept["id"], kept["customer_id"], kept["announced"]) == (order_id, "alice", 1)


def test_an_order_is_accepted_while_the_broker_is_down_and_announced_when_it_is_back(
    told: Recorder,
) -> None:
    told.fails = PublishError("no connection")
    order_id = order.place_order("alice", "pizza-palace", ["margherita"], 2599)
    told.fails = None

    assert order.announce_unsent() == 1

    assert [envelope.subject for envelope in told.events] == [order_id]
    assert order.announce_unsent() == 0


def test_an_order_which_is_announced_twice_is_the_same_event_twice(told: Recorder) -> None:
    order.place_order("alice", "pizza-palace", ["margherita"], 2599)
    # The crash between announcing and writing that down.
    order.ledger.write("UPDATE orders SET announced = 0")

    order.announce_unsent()

    first, second = told.events
    assert first == second


def test_two_orders_have_different_ids(told: Recorder) -> None:
    assert order.place_order("a", "b", [], 1) != order.place_order("a", "b", [], 1)


# -- restaurant ------------------------------------------------------------------------------------------------------


def test_an_open_restaurant_confirms() -> None:
    answer = restaurant.answer_order(PLACED, delivery())

    assert answer == CONFIRMED


def test_a_closed_kitchen_rejects() -> None:
    answer = restaurant.answer_order(PLACED.model_copy(update={"restaurant_id": "night-owl"}), delivery())

    assert isinstance(answer, events.OrderRejectedByRestaurant)
    assert "closed" in answer.reason


def test_a_kitchen_that_closes_between_two_deliveries_gives_its_first_answer_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = restaurant.answer_order(PLACED, delivery())
    monkeypatch.setattr(restaurant, "CLOSED", {"pizza-palace"})

    assert restaurant.answer_order(PLACED, delivery()) == first


# -- payment ---------------------------------------------------------------------------------------------------------


def test_a_good_card_is_charged_once_however_often_the_event_is_delivered() -> None:
    first = payment.charge_customer(PLACED, delivery())
    second = payment.charge_customer(PLACED, delivery())

    assert first == second == CHARGED
    assert [tuple(row) for row in payment.ledger.rows("SELECT order_id, amount_cents FROM charges")] == [
        ("ORD-1", 2599)
    ]


def test_an_expired_card_is_a_fact_and_costs_nothing() -> None:
    failed = payment.charge_customer(PLACED.model_copy(update={"customer_id": "olga"}), delivery())

    assert failed == events.PaymentFailed(customer_id="olga", reason="the card has expired")
    assert payment.ledger.rows("SELECT * FROM charges") == []


def test_a_flaky_card_times_out_twice_and_is_charged_at_the_third_attempt() -> None:
    placed = PLACED.model_copy(update={"customer_id": "carol"})

    for attempt in (1, 2):
        with pytest.raises(payment.GatewayTimeout):
            payment.charge_customer(placed, delivery(attempt=attempt))
    assert payment.ledger.rows("SELECT * FROM charges") == []

    assert isinstance(payment.charge_customer(placed, delivery(attempt=3)), events.PaymentCharged)


def test_timeouts_are_tried_again_and_a_frozen_account_is_not() -> None:
    retry = subscription("payment.charge_customer").retry

    assert retry.covers(payment.GatewayTimeout())
    assert not retry.covers(ValueError("a bug"))
    with pytest.raises(PermanentFailure) as failure:
        payment.charge_customer(PLACED.model_copy(update={"customer_id": "victor"}), delivery())
    assert not retry.covers(failure.value)


def test_a_refund_gives_back_what_was_charged_once() -> None:
    first = payment.refund_customer(CHARGED, delivery())
    second = payment.refund_customer(CHARGED, delivery())

    assert first == second == REFUNDED
    assert [tuple(row) for row in payment.ledger.rows("SELECT order_id, amount_cents FROM refunds")] == [
        ("ORD-1", 2599)
    ]


# -- driver ----------------------------------------------------------------------------------------------------------


def test_a_driver_comes_once_the_food_is_cooked_and_paid_for() -> None:
    first = driver.assign_driver(CONFIRMED, CHARGED, delivery())
    second = driver.assign_driver(CONFIRMED, CHARGED, delivery())

    assert first == second
    assert first.driver_id in driver.DRIVERS
    assert first.estimated_minutes == CONFIRMED.estimated_minutes + 12
    assert len(driver.ledger.rows("SELECT * FROM trips")) == 1


def test_what_is_missing_after_half_an_hour_is_announced() -> None:
    assert driver.report_delay(CONFIRMED, None) == DELAYED
    assert driver.report_delay(None, CHARGED).missing == "the restaurant's answer"


# -- notification ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "event", "words"),
    [
        (notification.text_arrival, ASSIGNED, "DRV-42 is on the way: 27 minutes"),
        (notification.text_rejection, REJECTED, "Sorry, night-owl cannot take your order: closed"),
        (notification.text_refusal, FAILED, "the card has expired"),
        (notification.text_delay, DELAYED, "we still wait for the payment"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_customer_is_texted_once(handler, event: Event, words: str) -> None:
    handler(event, delivery())
    handler(event, delivery())

    (message,) = notification.ledger.rows("SELECT * FROM messages")
    assert (message["order_id"], message["customer_id"]) == ("ORD-1", "alice")
    assert words in message["text"]


def test_texting_fails_while_the_gateway_is_down_and_only_then() -> None:
    notification.gateway_outage().touch()
    with pytest.raises(notification.SmsGatewayDown):
        notification.text_arrival(ASSIGNED, delivery())
    assert notification.ledger.rows("SELECT * FROM messages") == []

    notification.gateway_outage().unlink()
    notification.text_arrival(ASSIGNED, delivery())
    assert len(notification.ledger.rows("SELECT * FROM messages")) == 1


def test_the_operator_is_alarmed_once_for_a_dead_letter() -> None:
    alert = DeadLetterRecorded(
        letter="a1b2c3d4e5", handler="payment.charge_customer", reason="exhausted", error="GatewayTimeout"
    )
    notification.alarm_operator(alert, delivery())
    notification.alarm_operator(alert, delivery())

    (alarm,) = notification.ledger.rows("SELECT * FROM alarms")
    assert (alarm["id"], alarm["order_id"]) == ("a1b2c3d4e5", "ORD-1")
    assert alarm["error"] == "payment.charge_customer: GatewayTimeout"


def test_the_operator_is_alarmed_once_for_an_order_that_does_not_end() -> None:
    overdue = StoryOverdue(
        story="delivery", key="ORD-1", since=datetime.now(UTC), arrived=["order.placed"], missing=[], ends=[]
    )
    notification.alarm_support(overdue, delivery())
    notification.alarm_support(overdue, delivery())

    (alarm,) = notification.ledger.rows("SELECT * FROM alarms")
    assert (alarm["order_id"], alarm["error"]) == ("ORD-1", "delivery overdue, without an end")


# -- analytics and loyalty -------------------------------------------------------------------------------------------


def test_analytics_counts_each_event_once_and_needs_no_vocabulary() -> None:
    unheard_of = Envelope(
        id="9", type="moon.landed_on", source="test", subject="", time=datetime.now(UTC), correlation_id="9"
    )
    analytics.count_event(unheard_of)
    analytics.count_event(unheard_of)

    assert analytics.counts() == {"moon.landed_on": 1}


def test_points_are_whole_and_awarded_once() -> None:
    spending = loyalty.Spending.model_validate(CHARGED.model_dump())
    loyalty.award_points(spending, delivery())
    loyalty.award_points(spending, delivery())

    (booked,) = loyalty.ledger.rows("SELECT points FROM points")
    assert booked["points"] == loyalty.balance("alice") == 25


@pytest.mark.parametrize("order_of_arrival", [("award", "withdraw"), ("withdraw", "award")])
def test_a_refund_takes_the_points_back_whichever_is_heard_first(order_of_arrival: tuple[str, str]) -> None:
    spending = loyalty.Spending.model_validate(CHARGED.model_dump())
    for what in order_of_arrival:
        handler = loyalty.award_points if what == "award" else loyalty.withdraw_points
        handler(spending, delivery(key=f"loyalty.{what}/1"))

    assert loyalty.balance("alice") == 0
    assert len(loyalty.ledger.rows("SELECT * FROM points")) == 2


# -- the platform as a whole -----------------------------------------------------------------------------------------


def source_of(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text()


def imports(source: str) -> set[str]:
    """What a module in `handlers` imports, by its full name; a name taken from a module counts as one, too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A service is no package, so that one dot is `handlers`.
            module = ".".join(filter(None, ["handlers" if node.level else "", node.module]))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import handlers.payment",
        "from handlers import ledger, payment",
        "from handlers.payment import app",
        "from . import payment",
        "from .payment import app",
        "def later():\n    from handlers import payment as other",
    ],
)
def test_an_import_of_another_service_is_found_however_it_is_written(line: str) -> None:
    assert "handlers.payment" in imports(line)


def test_no_service_imports_another() -> None:
    others = {f"handlers.{name}" for name in SERVICES}
    for name, module in SERVICES.items():
        assert not imports(source_of(module)) & others - {f"handlers.{name}"}, name


def test_the_services_use_only_what_choreo_offers() -> None:
    offered = {"choreo"} | {f"choreo.{name}" for name in choreo.__all__}
    for name, module in SERVICES.items():
        used = {each for each in imports(source_of(module)) if each.partition(".")[0] == "choreo"}
        assert used <= offered, name


def test_the_services_are_as_short_as_their_readme_says() -> None:
    said = re.search(
        r"one module of (\d+) to (\d+) lines", (Path(str(order.__file__)).parent / "README.md").read_text()
    )
    assert said is not None

    for name, module in SERVICES.items():
        assert int(said[1]) <= len(source_of(module).splitlines()) <= int(said[2]), name
    assert int(said[2]) <= 90


def test_adding_loyalty_changed_no_other_file(tmp_path: Path) -> None:
    here = Path(str(order.__file__)).parent
    before = tmp_path / "handlers"
    leave_out = shutil.ignore_patterns("loyalty.py", "story", "demo.py", "__pycache__")
    shutil.copytree(here, before, ignore=leave_out)
    script = """
import json
import sys
from choreo.local.discovery import find_services

found = find_services("handlers").values()
apps = [sys.modules[service.module].app for service in found]
bindings = {app.service_name: app.runtime.topology.patterns() for app in apps}
print(json.dumps([sys.modules["handlers"].__file__, bindings]))
"""

    def catalogue_in(directory: Path) -> Any:
        environment = {name: text for name, text in os.environ.items() if not name.startswith("CHOREO_")}
        answer = subprocess.run(
            [sys.executable, "-c", script],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        where, catalogue = json.loads(answer.stdout)
        assert Path(where).parent == directory / "handlers"
        return catalogue

    now = catalogue_in(here.parent)
    assert now.pop("loyalty")
    assert catalogue_in(tmp_path) == now


def test_each_service_keeps_its_data_in_a_file_of_its_own(data: Path, told: Recorder) -> None:
    for module in SERVICES.values():
        module.ledger.rows("SELECT 1")

    assert {path.name for path in data.glob("*.db")} == {f"{name}.db" for name in SERVICES}


def test_data_goes_beside_the_package_where_nothing_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHOREO_DATA")

    assert ledger.data_directory() == Path(str(order.__file__)).parent.parent / "data"


def test_the_catalogue_names_every_event_its_publisher_its_listeners_and_its_fields() -> None:
    catalogue = (Path(str(order.__file__)).parent / "README.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in catalogue.splitlines() if "| `" in line[:3]
    ]
    announced_by: dict[str, set[str]] = {"order.placed": {"order"}}
    heard_by: dict[str, set[str]] = {}
    for name, module in SERVICES.items():
        for each in module.app.subscriptions:
            late = each.on_timeout.announces if isinstance(each, Join) and each.on_timeout else ()
            for event in (*(each.reaction.announces or ()), *(late or ())):
                announced_by.setdefault(event.event_type, set()).add(name)
            for pattern in each.patterns:
                for event_type in [pattern] if pattern != "#" else events_by_type():
                    heard_by.setdefault(event_type, set()).add(name)

    assert {row[0].strip("`") for row in rows} == set(events_by_type())
    for event_type, publishers, listeners, fields in rows:
        event = events_by_type()[event_type.strip("`")]
        assert set(publishers.split(", ")) == announced_by[event.event_type]
        assert set(listeners.split(", ")) == heard_by[event.event_type], event.event_type
        assert fields.replace("`", "").split() == list(event.model_fields)


def test_every_event_says_its_fact_and_every_handler_what_it_announces() -> None:
    for event in events_by_type().values():
        assert str(event.__doc__).endswith(".")
    for module in SERVICES.values():
        for each in module.app.subscriptions:
            assert each.reaction.announces is not None, each.name
            assert each.reaction.function.__doc__, each.name


def test_loyalty_reads_two_fields_of_a_payment_and_no_more() -> None:
    (reader,) = subscription("loyalty.award_points").reaction.inputs

    assert issubclass(reader.models[0], BaseModel)
    assert set(reader.models[0].model_fields) == {"customer_id", "amount_cents"}


def subscription(name: str):
    return next(each for each in SERVICES[name.partition(".")[0]].app.subscriptions if each.name == name)


def events_by_type() -> dict[str, type[Event]]:
    return {
        event.event_type: event
        for event in vars(events).values()
        if isinstance(event, type) and issubclass(event, Event) and event is not Event
    }
