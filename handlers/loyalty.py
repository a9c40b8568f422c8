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
    """All that this service reads of a payment. Its other fields may come and go."""

    customer_id: str
    amount_cents: int

    @property
    def points(self) -> int:
        return self.amount_cents // 100


@app.on(PaymentCharged)
def award_points(spending: Spending, context: Context) -> None:
    """A payment earns points."""
    _book(spending.customer_id, spending.points, context)


# A refund may be heard before its payment. A sum does not mind the order of its terms.
@app.on(PaymentRefunded)
def withdraw_points(spending: Spending, context: Context) -> None:
    """A refund takes them back."""
    _book(spending.customer_id, -spending.points, context)


def balance(customer_id: str) -> int:
    """How many points a customer has."""
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
