"""
The order service: accepts an order, saves it, and announces that it was placed.

It does not know its listeners. A web application calls `place_order`. The worker of this service runs the task
`order.announce_unsent`; cron or Celery beat sends that task from time to time.
"""

import json
import logging
from datetime import UTC, datetime
from uuid import uuid4

from choreo import Envelope, PublishError, Service
from handlers.events import OrderPlaced
from handlers.ledger import Ledger

logger = logging.getLogger(__name__)

app = Service("order", announces=[OrderPlaced])

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

    After the return the order is placed, even if the broker is down. `announce_unsent` announces it when the broker is
    back.
    """
    order_id = f"ORD-{uuid4().hex[:8].upper()}"
    placed = OrderPlaced(
        customer_id=customer_id, restaurant_id=restaurant_id, items=items, total_cents=total_cents
    ).sealed(id=str(uuid4()), source=app.service_name, subject=order_id, cause=None, time=datetime.now(UTC))
    # Save before announcing: a late announcement is better than an announced order that is not saved.
    ledger.write("INSERT INTO orders VALUES (?, ?, ?, 0)", order_id, customer_id, json.dumps(placed.to_wire()))
    try:
        _announce(placed)
    except PublishError as error:
        logger.warning("%s is accepted, and will be announced later: %s", order_id, error)
    return order_id


@app.task(name="order.announce_unsent")
def announce_unsent() -> int:
    """Announce the orders that a crash or a missing broker left unannounced. Returns their number."""
    unsent = ledger.rows("SELECT event FROM orders WHERE NOT announced ORDER BY rowid")
    for row in unsent:
        _announce(Envelope.from_wire(json.loads(row["event"])))
    return len(unsent)


def _announce(placed: Envelope) -> None:
    # A crash between these two lines, or two processes at once, announce the order twice. Both events have one id,
    # because the event was saved with the order. So every handler handles it once.
    app.publisher.announce([placed])
    ledger.write("UPDATE orders SET announced = 1 WHERE id = ?", placed.subject)
