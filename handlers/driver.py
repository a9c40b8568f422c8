"""The driver service: sends a driver once the restaurant has confirmed *and* the customer has paid, in any order."""

from datetime import timedelta
from zlib import crc32

from choreo import Context, Service
from handlers.events import (
    DriverAssigned,
    OrderConfirmedByRestaurant,
    OrderDelayed,
    OrderRejectedByRestaurant,
    PaymentCharged,
    PaymentFailed,
)
from handlers.ledger import Ledger

DRIVERS = ("DRV-7", "DRV-23", "DRV-42")

app = Service("driver")

ledger = Ledger(
    "driver",
    """
    CREATE TABLE IF NOT EXISTS trips (idempotency_key TEXT PRIMARY KEY, order_id TEXT NOT NULL, driver_id TEXT);
    """,
)


def report_delay(confirmed: OrderConfirmedByRestaurant | None, charged: PaymentCharged | None) -> OrderDelayed:
    """Announce the missing part of an order when its time is up."""
    arrived = confirmed or charged
    assert arrived is not None, "a join begins with its first event"
    missing = "the restaurant's answer" if charged else "the payment"
    return OrderDelayed(customer_id=arrived.customer_id, missing=missing)


@app.join(
    OrderConfirmedByRestaurant,
    PaymentCharged,
    within=timedelta(minutes=30),
    unless=(OrderRejectedByRestaurant, PaymentFailed),
    on_timeout=report_delay,
)
def assign_driver(confirmed: OrderConfirmedByRestaurant, charged: PaymentCharged, context: Context) -> DriverAssigned:
    """Choose a driver, and send them to the restaurant."""
    driver_id = DRIVERS[crc32(context.subject.encode()) % len(DRIVERS)]
    ledger.write("INSERT OR IGNORE INTO trips VALUES (?, ?, ?)", context.idempotency_key, context.subject, driver_id)
    return DriverAssigned(
        customer_id=charged.customer_id, driver_id=driver_id, estimated_minutes=confirmed.estimated_minutes + 12
    )
