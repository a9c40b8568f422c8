"""Which messages are claimed together, before the first of them is delivered: with a store in memory."""

from typing import Any

import pytest

from choreo import Event, Service
from choreo.broker import workload
from choreo.broker.incoming import EventText
from choreo.broker.rabbitmq.acks import Acks
from choreo.broker.rabbitmq.taken import Taken
from choreo.events.lineage import NO_LINEAGE
from choreo.fast.claim_group import ClaimGroup
from choreo.fast.commit_group import CommitGroup
from choreo.fast.rabbit_channel import Place
from choreo.store.parts import unit_of
from tests.unit.events import OrderConfirmed, OrderRejected, PaymentCharged, envelope
from tests.unit.stage import Stage, service

SHIP = "shop.ship"


class Worker:
    """A worker of a service with one join. ``busy`` are the tags of the deliveries that its pool has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stage = Stage(shop())
        self.task = stage.app.tasks[SHIP]
        self.store, self.commits = stage.store, CommitGroup(stage.app.runtime)
        self.busy: set[str] = set()
        monkeypatch.setattr(workload, "has", lambda tags: not self.busy.isdisjoint(tags))
        self.claims = ClaimGroup(self.store, {SHIP: self.task}, {SHIP}, self.delivery_of, self.commits)
        self.arrived: list[Taken] = []
        self.tags = 0

    def delivery_of(self, task: Any, taken: Taken) -> Any:
        event, acks = taken.event, Acks(1, lambda _: None)
        assert event is not None
        place = Place(self.commits, taken.tag, acks)
        return task._placed(event.envelope, 1, place, NO_LINEAGE, redelivered=False)

    def gets(self, *events: Event) -> None:
        """Messages arrive."""
        for event in events:
            self.tags += 1
            text = EventText.of(envelope(event, id=f"e-{self.tags}"))
            self.arrived.append(Taken(SHIP, self.tags, "consumer", _read=True, _event=text))

    def hands_over(self) -> Taken:
        """Give the next message to the pool, which does not begin it yet."""
        taken = self.arrived.pop(0)
        self.claims.begin(taken, self.arrived)
        self.busy.add(str(taken.tag))
        return taken

    @property
    def parts(self) -> list[str]:
        """The parts that the store knows."""
        state = self.store.look(SHIP, unit_of("ORD-1"))
        return sorted(state.parts) if state else []


def shop() -> Service:
    app = service("shop")

    @app.join(OrderConfirmed, PaymentCharged, unless=OrderRejected)
    def ship(confirmed: OrderConfirmed, charged: PaymentCharged) -> None: ...

    app.finalize()
    return app


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


def test_parts_that_have_arrived_are_recorded_together(worker: Worker) -> None:
    worker.gets(OrderConfirmed(), PaymentCharged())

    worker.hands_over()

    assert worker.parts == ["order.confirmed", "payment.charged"]


def test_no_part_overtakes_a_cancellation_that_came_with_it(worker: Worker) -> None:
    worker.gets(OrderRejected(), OrderConfirmed(), PaymentCharged())

    worker.hands_over()

    assert worker.parts == []


def test_no_part_overtakes_a_cancellation_that_came_alone_and_waits_in_the_pool(worker: Worker) -> None:
    worker.gets(OrderRejected())
    worker.hands_over()
    worker.gets(OrderConfirmed(), PaymentCharged())

    worker.hands_over()

    assert worker.parts == []


def test_no_part_overtakes_the_second_of_two_cancellations(worker: Worker) -> None:
    worker.gets(OrderRejected(), OrderRejected())
    first, second = worker.hands_over(), worker.hands_over()
    worker.busy.discard(str(first.tag))
    worker.gets(OrderConfirmed(), PaymentCharged())

    worker.hands_over()

    assert worker.parts == []
    worker.busy.discard(str(second.tag))


def test_once_the_cancellation_is_settled_parts_are_recorded_together_again(worker: Worker) -> None:
    worker.gets(OrderRejected(), OrderRejected())
    worker.hands_over()
    worker.hands_over()
    worker.busy.clear()
    worker.gets(OrderConfirmed(), PaymentCharged())

    worker.hands_over()

    assert worker.parts == ["order.confirmed", "payment.charged"]
