"""
The shared vocabulary: what can happen to an order.

This is all that the services have in common. An event says little, on purpose: who needs more asks its own data.
"""

from choreo import Event


class OrderPlaced(Event):
    """A customer placed an order."""

    customer_id: str
    restaurant_id: str
    items: list[str]
    total_cents: int


class OrderConfirmedByRestaurant(Event):
    """The restaurant has begun to cook the order."""

    customer_id: str
    restaurant_id: str
    estimated_minutes: int


class OrderRejectedByRestaurant(Event):
    """The restaurant cannot cook the order."""

    customer_id: str
    restaurant_id: str
    reason: str


class OrderDelayed(Event):
    """An order could not be handed to a driver in time, because something it needs is still missing."""

    customer_id: str
    missing: str


class PaymentCharged(Event):
    """The customer's card was charged."""

    customer_id: str
    amount_cents: int
    payment_id: str


class PaymentFailed(Event):
    """The customer's card was refused; no money moved."""

    customer_id: str
    reason: str


class PaymentRefunded(Event):
    """What had been charged went back to the customer."""

    customer_id: str
    amount_cents: int
    payment_id: str


class DriverAssigned(Event):
    """A driver is on the way with the order."""

    customer_id: str
    driver_id: str
    estimated_minutes: int
