"""What a delivery tells the line on which its commit can be sent ahead."""

from typing import Any

import pytest

from choreo.broker.keys import Lease
from choreo.worker.delivery import Delivery
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

    stage, line = Stage(app), Line()
    lease = Lease("o", "i", "o:1", redelivered=redelivered)

    Delivery(
        stage.app, app.subscriptions[0], envelope(OrderPlaced(customer_id="alice", total_cents=1)), 1, lease, line
    ).live()

    assert handled == [[redelivered]]
