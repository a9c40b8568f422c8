"""The analytics service: counts every event, also of types that are added later, and watches that each order ends."""

from datetime import timedelta

from choreo import Envelope, Service
from handlers.events import (
    DriverAssigned,
    OrderConfirmedByRestaurant,
    OrderPlaced,
    OrderRejectedByRestaurant,
    PaymentCharged,
    PaymentFailed,
)
from handlers.ledger import Ledger

app = Service("analytics")

ledger = Ledger(
    "analytics",
    """
    CREATE TABLE IF NOT EXISTS facts (event_id TEXT PRIMARY KEY, type TEXT NOT NULL, order_id TEXT, announced_at TEXT);
    """,
)


# It only watches. If none of `ends` comes in time, choreo announces StoryOverdue.
app.story(
    "delivery",
    begins=OrderPlaced,
    steps=[OrderConfirmedByRestaurant, PaymentCharged],
    ends=[DriverAssigned, OrderRejectedByRestaurant, PaymentFailed],
    within=timedelta(minutes=45),
)


# An Envelope, not an event class: counting reads metadata only, so it needs no event classes.
@app.on("#")
def count_event(event: Envelope) -> None:
    """Record the event: its type, its order and its time."""
    ledger.write(
        "INSERT OR IGNORE INTO facts VALUES (?, ?, ?, ?)", event.id, event.type, event.subject, event.time.isoformat()
    )


def counts() -> dict[str, int]:
    """Return the number of events of each type."""
    rows = ledger.rows("SELECT type, count(*) AS times FROM facts GROUP BY type ORDER BY type")
    return {row["type"]: row["times"] for row in rows}
