"""The analytics service: counts every event, also events of types that are added after its deployment."""

from choreo import Envelope, Service
from handlers.ledger import Ledger

app = Service("analytics")

ledger = Ledger(
    "analytics",
    """
    CREATE TABLE IF NOT EXISTS facts (event_id TEXT PRIMARY KEY, type TEXT NOT NULL, order_id TEXT, announced_at TEXT);
    """,
)


# An Envelope, not an event class: analytics reads metadata only, so it needs no event classes.
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
