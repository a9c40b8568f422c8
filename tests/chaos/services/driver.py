"""Sends a driver once the order is confirmed and paid: the join."""

from datetime import timedelta
from uuid import uuid4

from choreo import Context
from tests.chaos.services import book
from tests.chaos.services.base import service
from tests.chaos.services.events import (
    DriverAssigned,
    OrderConfirmedByRestaurant,
    OrderRejectedByRestaurant,
    PaymentCharged,
    PaymentFailed,
)

app = service("driver")


@app.join(
    OrderConfirmedByRestaurant,
    PaymentCharged,
    within=timedelta(minutes=30),
    unless=(OrderRejectedByRestaurant, PaymentFailed),
)
def assign_driver(confirmed: OrderConfirmedByRestaurant, charged: PaymentCharged, context: Context) -> DriverAssigned:
    book.work(context, confirmed.meta, charged.meta, seconds=0.01)
    return DriverAssigned(number=charged.number, trip_id=str(uuid4()))
