"""What the fast lane tells the line on which a delivery's commit can be sent ahead."""

import math
from typing import Any

import pytest

from choreo.broker.redis.receipt import Receipt
from choreo.delivery.delivery import Delivery
from choreo.fast.decisions import FastDecisions
from tests.unit.events import OrderPlaced, envelope
from tests.unit.stage import Stage, service


class Line:
    """Notes what it is told, and sends nothing ahead."""

    def __init__(self) -> None:
        self.begun: list[bool] = []

    def begin(self, *, alone: bool) -> None:
        self.begun.append(alone)


@pytest.mark.parametrize("redelivered", [True, False])
def test_what_was_delivered_before_lets_no_other_commit_wait(redelivered: bool):
    app = service()
    handled: list[Any] = []

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        handled.append(line.begun.copy())

    Stage(app)
    line: Any = Line()
    event = envelope(OrderPlaced(customer_id="alice", total_cents=1))
    receipt = Receipt("o:1", f"1 {event.identity}", math.inf, redelivered=redelivered)
    decisions = FastDecisions(app.runtime.store, app.runtime.publisher, receipt, line)
    delivery = Delivery(app.runtime, app.subscriptions[0], event, token="o:1", decisions=decisions)

    decisions.begin(delivery.claim)
    delivery.react({}, delivery.context({}))

    assert handled == [[redelivered]]
