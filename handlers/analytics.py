"""The analytics service: hears every event there is, also those that are invented after it was deployed."""

from choreo import Envelope, Service
from handlers.ledger import Ledger

app = Service("analytics")

ledger = Ledger(
    "analytics",
    """
    CREATE TABLE IF NOT EXISTS facts (event_id TEXT PRIMARY KEY, type TEXT NOT NULL, order_id TEXT, announced_at TEXT);
    """,
)


# The envelope rather than an event class: analytics reads what all events have in common, and needs no vocabulary.
@app.on("#")
def count_event(event: Envelope) -> None:
    """Keep what happened, to whom, and when."""
    ledger.write(
        "INSERT OR IGNORE INTO facts VALUES (?, ?, ?, ?)", event.id, event.type, event.subject, event.time.isoformat()
    )


def counts() -> dict[str, int]:
    """How often each type of event has happened."""
    rows = ledger.rows("SELECT type, count(*) AS times FROM facts GROUP BY type ORDER BY type")
    return {row["type"]: row["times"] for row in rows}
