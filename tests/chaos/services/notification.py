"""Tells the customer of everything that happens to an order."""

from choreo import Context, Envelope
from tests.chaos.services import book
from tests.chaos.services.base import service
from tests.chaos.services.events import (
    DriverAssigned,
    OrderConfirmedByRestaurant,
    OrderRejectedByRestaurant,
    PaymentCharged,
    PaymentFailed,
)

app = service("notification")


@app.on(OrderConfirmedByRestaurant, OrderRejectedByRestaurant, PaymentCharged, PaymentFailed, DriverAssigned)
def tell_customer(event: Envelope, context: Context) -> None:
    book.work(context, event, seconds=0.005)
