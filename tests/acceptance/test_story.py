"""
The platform's story, on real workers: each service is a `celery worker` of its own, on Redis and on RabbitMQ.

What is counted is counted in the services' own databases.
"""

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import pytest

from choreo import PublishError, Service
from choreo.local import EmbeddedServer, Platform
from handlers import analytics, driver, loyalty, notification, order, payment, restaurant
from tests.javascript import tax_service
from tests.platforms import ForkedPlatform
from tests.servers import rabbitmq_vhost, require_rabbitmq
from tests.waiting import eventually

MODULES: tuple[ModuleType, ...] = (order, restaurant, payment, driver, notification, analytics, loyalty)
HAPPY = Counter(answers=1, charges=1, trips=1, messages=1, points=1)
REJECTED = Counter(answers=1, charges=1, refunds=1, messages=1, points=2)


@dataclass
class Effects:
    """What was done for one order, table by table."""

    order_id: str

    def count(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        for module, table in [
            (restaurant, "answers"),
            (payment, "charges"),
            (payment, "refunds"),
            (driver, "trips"),
            (notification, "messages"),
            (notification, "alarms"),
            (loyalty, "points"),
        ]:
            counted[table] += len(self._rows(module, table))
        return +counted

    def become(self, expected: Counter[str]) -> None:
        """Wait until this was done, and check that it was done no more than that."""
        try:
            eventually(lambda: self.count() >= expected and self.is_counted(), reason=f"{self} become {expected}")
        except AssertionError as error:
            error.add_note(f"They are {self.count()}, and analytics has heard {self.facts()}.")
            raise
        assert self.count() == expected

    def facts(self) -> Counter[str]:
        return Counter(row["type"] for row in self._rows(analytics, "facts"))

    def is_counted(self) -> bool:
        return self.facts()["order.placed"] == 1

    @property
    def message(self) -> str:
        (row,) = self._rows(notification, "messages")
        return str(row["text"])

    def _rows(self, module: ModuleType, table: str) -> list[sqlite3.Row]:
        return list(module.ledger.rows(f"SELECT * FROM {table} WHERE order_id = ?", self.order_id))


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """All services up, and this process able to place orders with them."""
    with ExitStack() as stack:
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        store = stack.enter_context(EmbeddedServer()).url
        broker = store if request.param == "redis" else stack.enter_context(rabbitmq_vhost(require_rabbitmq()))
        environment = {
            "CHOREO_DATA": str(tmp_path_factory.mktemp("data")),
            "CHOREO_NAMESPACE": f"t{uuid4().hex[:8]}",
            "CHOREO_INTAKE": "1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        platform = stack.enter_context(
            ForkedPlatform(
                "handlers",
                broker_url=broker,
                store_url=store,
                environment=environment,
                # At DEBUG the log also names each delivery that was handled before.
                worker_options=["--concurrency", "2", "--loglevel", "debug"],
            )
        )
        for module in MODULES:
            _point(module.app, broker, store, environment["CHOREO_NAMESPACE"])
        platform.start()
        platform.wait_ready()
        yield platform


def _point(app: Service, broker: str, store: str, namespace: str) -> None:
    """Let a service in this process use another broker than the one that it may have used before."""
    app.conf.update(broker_url=broker, choreo_store_url=store, choreo_namespace=namespace)
    vars(app).pop("amqp", None)
    for part in ("topology", "publisher", "store", "dead_letters", "joins", "observe", "stories"):
        vars(app.runtime).pop(part, None)
    app.conf.update(task_default_queue=app.runtime.topology.default_queue)


@pytest.fixture
def stopped(platform: Platform, request: pytest.FixtureRequest) -> Iterator[str]:
    """A service that is stopped, and started again after the test if that did not do it."""
    name: str = request.param
    platform.stop(name)
    yield name
    platform.start(name)
    platform.wait_ready()


def place(customer: str = "alice", restaurant_id: str = "pizza-palace", total_cents: int = 2599) -> Effects:
    return Effects(order.place_order(customer, restaurant_id, ["margherita", "tiramisu"], total_cents))


def test_an_order_is_cooked_charged_driven_and_the_customer_is_told(platform: Platform) -> None:
    alice = place()

    alice.become(HAPPY)

    assert "is on the way" in alice.message
    expected = Counter(["order.placed", "order.confirmed_by_restaurant", "payment.charged", "driver.assigned"])
    eventually(lambda: alice.facts() == expected, reason="analytics heard each event once")
    (points,) = loyalty.ledger.rows("SELECT points FROM points WHERE order_id = ?", alice.order_id)
    assert points["points"] == 25


def test_an_order_that_the_restaurant_rejects_is_refunded_and_nobody_drives(platform: Platform) -> None:
    bob = place(restaurant_id="night-owl")

    bob.become(REJECTED)

    assert bob.message.startswith("Sorry, night-owl cannot take your order")
    (refund,) = payment.ledger.rows("SELECT amount_cents FROM refunds WHERE order_id = ?", bob.order_id)
    assert refund["amount_cents"] == 2599
    points = loyalty.ledger.rows("SELECT points FROM points WHERE order_id = ?", bob.order_id)
    assert sum(row["points"] for row in points) == 0


def test_many_orders_at_once_are_each_handled_once(platform: Platform) -> None:
    orders = [place(restaurant_id="night-owl" if number % 5 == 0 else "pizza-palace") for number in range(20)]

    for number, placed in enumerate(orders):
        placed.become(REJECTED if number % 5 == 0 else HAPPY)


@pytest.mark.parametrize("stopped", ["payment", "restaurant"], indirect=True)
def test_the_joins_do_not_care_which_event_comes_last(platform: Platform, stopped: str) -> None:
    cooked, rejected = place(), place(restaurant_id="night-owl")
    first = Counter(answers=1) if stopped == "payment" else Counter(charges=1, points=1)
    for placed in (cooked, rejected):
        eventually(lambda placed=placed: placed.count() >= first, reason=f"everybody but {stopped} is done")
        assert placed.count()["trips"] == placed.count()["refunds"] == 0

    platform.start(stopped)

    cooked.become(HAPPY)
    rejected.become(REJECTED)


@pytest.mark.parametrize("stopped", ["loyalty"], indirect=True)
def test_loyalty_catches_up_with_what_was_ordered_while_it_was_down(platform: Platform, stopped: str) -> None:
    orders = [place(customer="eve") for _ in range(3)]
    for placed in orders:
        placed.become(HAPPY - Counter(points=1))

    platform.start("loyalty")

    for placed in orders:
        placed.become(HAPPY)
    assert loyalty.balance("eve") == 3 * 25


def test_a_flaky_gateway_costs_two_retries_and_one_charge(platform: Platform) -> None:
    carol = place(customer="carol")

    carol.become(HAPPY)

    log = platform.log("payment").read_text()
    assert re.findall(r"charge_customer\(.*: attempt (\d) of 6 failed", log) == ["1", "2"]


def test_a_refused_card_is_told_to_the_customer_and_nobody_drives(platform: Platform) -> None:
    olga = place(customer="olga")

    olga.become(Counter(answers=1, messages=1))

    assert "the card has expired" in olga.message


def test_a_failure_that_no_retry_can_mend_is_a_dead_letter_at_once(platform: Platform) -> None:
    victor = place(customer="victor")

    (letter,) = eventually(lambda: order.app.dead_letters.find("payment"), reason="a dead letter of payment")

    assert (letter.handler, letter.reason, letter.attempts) == ("payment.charge_customer", "refused", 1)
    assert letter.subject == victor.order_id
    victor.become(Counter(answers=1, alarms=1))
    eventually(lambda: victor.facts()["dead_letter.recorded"] == 1, reason="analytics heard of the alert")
    order.app.dead_letters.discard(letter.id)


def test_a_dead_letter_is_replayed_to_the_handler_that_failed_and_to_nobody_else(platform: Platform) -> None:
    notification.gateway_outage().touch()
    try:
        dave = place(customer="dave")
        dave.become(HAPPY - Counter(messages=1) + Counter(alarms=1))
    finally:
        notification.gateway_outage().unlink()
    (letter,) = order.app.dead_letters.find("notification")
    assert (letter.handler, letter.reason, letter.attempts) == ("notification.text_arrival", "exhausted", 3)
    eventually(lambda: dave.facts().total() == 5, reason="analytics heard all of dave's order, and its alert")

    order.app.dead_letters.replay(letter.id)

    dave.become(HAPPY + Counter(alarms=1))
    assert order.app.dead_letters.find("notification") == []
    # Analytics hears every event. Once it has heard the four of a later order, it would have heard the replay as well.
    later = place()
    later.become(HAPPY)
    eventually(lambda: later.facts().total() == 4, reason="analytics heard the later order")
    # A delivery is logged after the handler has counted its event.
    eventually(lambda: _deliveries(platform, "analytics.count_event", later) == 4, reason="they are in the log")
    assert _deliveries(platform, "analytics.count_event", dave) == 5


def test_an_order_announced_twice_after_a_crash_is_handled_once(platform: Platform) -> None:
    alice = place()
    alice.become(HAPPY)
    # What a crash leaves behind that comes between announcing and writing that down.
    order.ledger.write("UPDATE orders SET announced = 0 WHERE id = ?", alice.order_id)

    order.announce_unsent.delay()

    eventually(_everything_is_announced, reason="the worker of the order service announced it again")
    # An order that goes the same way afterwards: when it is through, so is the duplicate.
    place().become(HAPPY)
    alice.become(HAPPY)


def test_an_order_accepted_while_the_broker_is_down_is_announced_by_the_worker(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PublishError("the broker is away")

    with monkeypatch.context() as broker_is_away:
        broker_is_away.setattr(order.app.publisher, "announce", refuse)
        alice = place()
    assert not _everything_is_announced()

    order.announce_unsent.delay()

    alice.become(HAPPY)


def _everything_is_announced() -> bool:
    return not order.ledger.rows("SELECT 1 FROM orders WHERE NOT announced")


def _deliveries(platform: Platform, handler: str, order: Effects) -> int:
    """How many deliveries of events of this order a handler had, by the log: runs, and events handled before."""
    log = platform.log(handler.partition(".")[0]).read_text()
    return len(re.findall(rf"{handler}\([^)]* {order.order_id}\).*\[(?:attempt|event) ", log))


@pytest.mark.parametrize("platform", ["redis"], indirect=True)
def test_a_service_in_javascript_joins_in_and_no_other_service_knows_it(platform: Platform, tmp_path: Path) -> None:
    with tax_service(platform.broker_url, os.environ["CHOREO_NAMESPACE"], log=tmp_path / "node.log"):
        orders = [place() for _ in range(5)]
        for placed in orders:
            placed.become(HAPPY)
            eventually(lambda placed=placed: placed.facts()["tax.recorded"] >= 1, reason="analytics heard of the tax")

    assert [placed.facts()["tax.recorded"] for placed in orders] == [1] * 5
