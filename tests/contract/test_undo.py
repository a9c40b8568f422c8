"""Undoing an effect, on each store: either order, duplicates, a worker that dies between, once."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest

from choreo import Context, Service
from choreo.broker.redis.packing import unpack
from choreo.delivery.clock import Clock
from choreo.delivery.kinds import delivery_to
from choreo.events.envelope import Envelope
from choreo.events.message import Message, parsed
from choreo.events.signing import Signing
from choreo.fast.fused_store import FusedStore
from choreo.store import Store, Verdict
from choreo.testing.publisher import MemoryPublisher
from choreo.testing.runtime import StageRuntime
from tests.contract.rigs import LEASE, Rig
from tests.unit.events import OrderConfirmed, OrderRejected, PaymentCharged, envelope
from tests.unit.stage import service

HANDLER = "payment.refund"
CHARGED = envelope(PaymentCharged(amount_cents=1200), id="c-1")
AGAIN = envelope(PaymentCharged(amount_cents=300), id="c-2")
REJECTED = envelope(OrderRejected(reason="closed"), id="r-1")
CONFIRMED = envelope(OrderConfirmed(), id="o-1")


class Desk:
    """A handler that refunds, with this store. Its own messages come back to it."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.refunds, self._queue = rig, list[tuple[int, str, str]](), list[Message]()
        app: Service = service("payment")

        @app.on(OrderRejected, undoes=PaymentCharged, unless=OrderConfirmed)
        def refund(charged: PaymentCharged, rejected: OrderRejected, context: Context) -> None:
            self.refunds.append((charged.amount_cents, rejected.reason, context.subject))

        store: Store = rig.store
        self.runtime = StageRuntime(app.runtime, store, MemoryPublisher(self._take))  # type: ignore[arg-type]
        (self.undo,) = app.subscriptions

    def _take(self, messages: Sequence[Message]) -> list[bool]:
        self._queue += messages
        return [True] * len(messages)

    def delivery(self, event: Envelope):
        return delivery_to(self.runtime, self.undo, event, 1)

    def hear(self, *events: Envelope) -> None:
        for event in events:
            self.delivery(event).live()
            self.settle()

    def settle(self) -> None:
        """Send what is due, and deliver it, until nothing is left."""
        clock = Clock(self.runtime)
        while True:
            clock.send_due([HANDLER])
            events = self.taken()
            if not events:
                return
            for event in events:
                self.delivery(event).live()

    def taken(self) -> list[Envelope]:
        """The messages to the handler that the publisher got, or that the commit itself has put into its queue."""
        bodies = [one.body for one in self._queue if one.routing_key == HANDLER]
        self._queue.clear()
        if isinstance(self.rig.store, FusedStore):
            rig: Any = self.rig
            while text := rig.client.rpop(rig.broker.prefix + HANDLER):
                bodies.append(unpack(text.encode())["body"])
        return [Envelope.from_wire(parsed(body)[0][0]) for body in bodies]

    @property
    def amounts(self) -> list[int]:
        return sorted(amount for amount, _, _ in self.refunds)


@pytest.fixture
def desk(rig: Rig) -> Desk:
    return Desk(rig)


@pytest.mark.parametrize(
    "order", list(permutations([CHARGED, AGAIN, REJECTED])), ids=lambda order: " ".join(map(str, order))
)
def test_each_effect_is_undone_once_in_every_order_with_duplicates(desk, order):
    desk.hear(*order, *order)

    assert desk.amounts == [300, 1200]
    assert {(reason, subject) for _, reason, subject in desk.refunds} == {("closed", "ORD-1")}
    assert desk.rig.store.backlog(HANDLER).total == 0


@pytest.mark.parametrize("order", [(CHARGED,), (REJECTED,), (CHARGED, AGAIN)], ids=["effect", "failure", "effects"])
def test_one_without_the_other_ends_in_nothing(desk, order):
    desk.hear(*order)
    desk.rig.pass_time(8 * 86_400)
    desk.settle()

    assert desk.refunds == []
    assert (desk.rig.store.backlog(HANDLER).total, desk.rig.store.letter_count(HANDLER)) == (0, 0)


@pytest.mark.parametrize(
    "order", [(CHARGED, CONFIRMED, REJECTED), (CONFIRMED, REJECTED, CHARGED)], ids=["after", "first"]
)
def test_an_effect_that_is_final_is_not_undone(desk, order):
    desk.hear(*order)

    assert desk.refunds == []
    assert desk.rig.store.backlog(HANDLER).total == 0


def test_a_worker_that_dies_between_failure_and_demand_undoes_nothing_twice_and_nothing_never(desk):
    desk.hear(CHARGED)
    assert desk.delivery(REJECTED).begin().verdict is Verdict.RUN  # and the worker dies

    desk.hear(AGAIN)
    assert desk.refunds == []
    desk.rig.pass_time(LEASE + 1)
    desk.hear(REJECTED)
    desk.rig.pass_time(2)
    desk.settle()

    assert desk.amounts == [300, 1200]


def test_a_worker_that_dies_in_the_undo_leaves_it_to_the_next(desk):
    desk.hear(CHARGED)
    desk.delivery(REJECTED).live()
    (demanded,) = desk.taken()
    assert desk.delivery(demanded).begin().verdict is Verdict.RUN  # and the worker dies

    desk.rig.pass_time(LEASE + 1)
    desk.hear(demanded, demanded)

    assert desk.amounts == [1200]


@pytest.mark.parametrize("order", [(CHARGED, REJECTED), (REJECTED, CHARGED)], ids=["effect first", "failure first"])
def test_what_is_demanded_is_sealed_by_whatever_way_it_leaves(desk, order, monkeypatch):
    signing = Signing({"key": b"a key of this test"})
    monkeypatch.setattr(StageRuntime, "signing", signing)
    desk.runtime.publisher.signing = signing

    desk.hear(*map(signing.signed, order))

    assert desk.amounts == [1200]
