"""
The loyalty service: a point for each whole unit of money that a customer spends.

It was added six months after the others. No other file was changed for it.
"""

from pydantic import BaseModel

from choreo import Context, Service
from handlers.events import PaymentCharged, PaymentRefunded
from handlers.ledger import Ledger

app = Service("loyalty")

ledger = Ledger(
    "loyalty",
    """
    CREATE TABLE IF NOT EXISTS points (
        idempotency_key TEXT PRIMARY KEY, order_id TEXT NOT NULL, customer_id TEXT, points INTEGER NOT NULL
    );
    """,
)


class Spending(BaseModel):
    """A view of a payment: the fields that this service reads. Its other fields may change."""

    customer_id: str
    amount_cents: int

    @property
    def points(self) -> int:
        """One point for each whole unit of money."""
        return self.amount_cents // 100


@app.on(PaymentCharged)
def award_points(spending: Spending, context: Context) -> None:
    """Add points for a payment."""
    _book(spending.customer_id, spending.points, context)


# A refund may arrive before its payment. The order does not change the sum.
@app.on(PaymentRefunded)
def withdraw_points(spending: Spending, context: Context) -> None:
    """Subtract the points of a refund."""
    _book(spending.customer_id, -spending.points, context)


def balance(customer_id: str) -> int:
    """Return the points of a customer."""
    (row,) = ledger.rows("SELECT coalesce(sum(points), 0) AS total FROM points WHERE customer_id = ?", customer_id)
    return int(row["total"])


def _book(customer_id: str, points: int, context: Context) -> None:
    ledger.write(
        "INSERT OR IGNORE INTO points VALUES (?, ?, ?, ?)",
        context.idempotency_key,
        context.subject,
        customer_id,
        points,
    )
