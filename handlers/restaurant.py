"""The restaurant service: confirms an order, or rejects it because the kitchen is closed."""

from choreo import Context, Service
from handlers.events import OrderConfirmedByRestaurant, OrderPlaced, OrderRejectedByRestaurant
from handlers.ledger import Ledger

#: Restaurants whose kitchen is closed now. All others are open.
CLOSED = {"night-owl"}

app = Service("restaurant")

ledger = Ledger(
    "restaurant",
    """
    CREATE TABLE IF NOT EXISTS answers (
        idempotency_key TEXT PRIMARY KEY, order_id TEXT NOT NULL, restaurant_id TEXT, confirmed INTEGER NOT NULL
    );
    """,
)


@app.on(OrderPlaced, no_undo="the platform pays for a meal whose payment fails")
def answer_order(order: OrderPlaced, context: Context) -> OrderConfirmedByRestaurant | OrderRejectedByRestaurant:
    """Confirm the order if the kitchen is open; otherwise reject it."""
    if _kitchen_takes(order, context):
        return OrderConfirmedByRestaurant(
            customer_id=order.customer_id,
            restaurant_id=order.restaurant_id,
            estimated_minutes=10 + 5 * len(order.items),
        )
    return OrderRejectedByRestaurant(
        customer_id=order.customer_id, restaurant_id=order.restaurant_id, reason="the kitchen is closed"
    )


def _kitchen_takes(order: OrderPlaced, context: Context) -> bool:
    # The first answer counts: if the kitchen closes before a redelivery of the event, the answer must not change.
    key, answer = context.idempotency_key, order.restaurant_id not in CLOSED
    ledger.write("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", key, context.subject, order.restaurant_id, answer)
    (given,) = ledger.rows("SELECT confirmed FROM answers WHERE idempotency_key = ?", key)
    return bool(given["confirmed"])
