"""Sends a driver once an order is confirmed and charged."""

from datetime import timedelta

from choreo import Context
from tests.browser.services.making import ledger, made
from tests.browser.services.words import DriverAssigned, OrderConfirmed, OrderPlaced, PaymentCharged

app = made("driver")
effects = ledger("driver")

app.story("delivery", begins=OrderPlaced, ends=DriverAssigned, within=timedelta(minutes=30))


@app.join(OrderConfirmed, PaymentCharged, within=timedelta(minutes=30))
def assign_driver(confirmed: OrderConfirmed, charged: PaymentCharged | None, context: Context) -> DriverAssigned:
    effects.write("INSERT INTO effects VALUES (?, ?)", context.idempotency_key, context.subject)
    return DriverAssigned()
