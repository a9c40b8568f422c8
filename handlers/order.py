"""
The order service: accepts an order, keeps it, and announces that it was placed. That is all.

It does not know who listens. `place_order` is what a web application calls; the worker of this service runs the task
`order.announce_unsent`, which cron or Celery beat asks for now and then.
"""

import json
import logging
from datetime import UTC, datetime
from uuid import uuid4

from choreo import Envelope, PublishError, Service
from handlers.events import OrderPlaced
from handlers.ledger import Ledger

logger = logging.getLogger(__name__)

app = Service("order")

ledger = Ledger(
    "order",
    """
    CREATE TABLE IF NOT EXISTS orders (
        id TEXT PRIMARY KEY, customer_id TEXT, event TEXT NOT NULL, announced INTEGER NOT NULL DEFAULT 0
    );
    """,
)


def place_order(customer_id: str, restaurant_id: str, items: list[str], total_cents: int) -> str:
    """
    Accept an order, and return its id.

    Once this has returned, the order is placed, even if the broker is down: it is announced when the broker is back.
    """
    order_id = f"ORD-{uuid4().hex[:8].upper()}"
    placed = OrderPlaced(
        customer_id=customer_id, restaurant_id=restaurant_id, items=items, total_cents=total_cents
    ).sealed(id=str(uuid4()), source=app.service_name, subject=order_id, cause=None, time=datetime.now(UTC))
    # Save before announcing: an order that others know of and we do not would be worse than one announced late.
    ledger.write("INSERT INTO orders VALUES (?, ?, ?, 0)", order_id, customer_id, json.dumps(placed.to_wire()))
    try:
        _announce(placed)
    except PublishError as error:
        logger.warning("%s is accepted, and will be announced later: %s", order_id, error)
    return order_id


@app.task(name="order.announce_unsent")
def announce_unsent() -> int:
    """Announce the orders that a crash or a missing broker has left unannounced. Returns how many there were."""
    unsent = ledger.rows("SELECT event FROM orders WHERE NOT announced ORDER BY rowid")
    for row in unsent:
        _announce(Envelope.from_wire(json.loads(row["event"])))
    return len(unsent)


def _announce(placed: Envelope) -> None:
    # A crash between these two lines, or two of us at once, announces the order a second time. It has the same id
    # then, because the event was saved with the order, so every handler knows that it has seen it.
    app.publisher.announce([placed])
    ledger.write("UPDATE orders SET announced = 1 WHERE id = ?", placed.subject)
