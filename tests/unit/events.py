"""The few events that the unit tests speak of, and how they look once announced."""

from datetime import UTC, datetime
from typing import Any

from choreo import Envelope, Event
from choreo.events.ids import identity


class OrderPlaced(Event):
    """A customer placed an order."""

    customer_id: str
    total_cents: int = 0


class OrderConfirmed(Event):
    restaurant_id: str = "R-1"


class OrderRejected(Event):
    reason: str = "closed"


class PaymentCharged(Event):
    amount_cents: int = 0


class PaymentFailed(Event):
    reason: str = ""


class DriverAssigned(Event):
    driver_id: str = "D-1"


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def envelope(event: Event, *, subject: str = "ORD-1", id: str = "e-1", **changes: Any) -> Envelope:  # noqa: A002
    """The envelope of an event, as if some service had announced it at noon."""
    known = {"source": "order", "time": NOON, "correlation_id": "story-1", "version": event.event_version}
    fields = known | {"type": event.event_type, "data": event.model_dump(mode="json")} | changes
    return Envelope(id=id, subject=subject, **fields)


def identity_of(event_id: str) -> str:
    """The identity, and so the unit, of an `envelope` with this id."""
    return identity("order", event_id)
