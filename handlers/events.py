"""
The shared vocabulary: the events of an order.

The services share this module, and a helper for their databases. An event carries few fields on purpose: a service
that needs more keeps its own data.
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
    """No driver was assigned in time: the order still waits for a confirmation or a payment."""

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
    """The charged amount was paid back to the customer."""

    customer_id: str
    amount_cents: int
    payment_id: str


class DriverAssigned(Event):
    """A driver is on the way with the order."""

    customer_id: str
    driver_id: str
    estimated_minutes: int
