"""Waits for several events at once."""

from datetime import timedelta

from choreo import Context
from tests.acceptance.faults.services.making import did, made
from tests.acceptance.faults.services.words import (
    DriverAssigned,
    OrderConfirmed,
    OrderRejected,
    ParcelPaid,
    ParcelPlaced,
    ParcelSent,
    PaymentCharged,
    PaymentFailed,
    PriceChanged,
    StockChanged,
)

app = made("driver")


@app.join(OrderConfirmed, PaymentCharged, unless=(OrderRejected, PaymentFailed), within=timedelta(minutes=30))
def assign_driver(confirmed: OrderConfirmed, charged: PaymentCharged, context: Context) -> DriverAssigned:
    did("assigned", context)
    return DriverAssigned()


@app.join(ParcelPlaced, ParcelPaid, within=timedelta(minutes=30))
def send_parcel(placed: ParcelPlaced, paid: ParcelPaid, context: Context) -> ParcelSent:
    did("sent", context)
    return ParcelSent()


@app.on(StockChanged)
def set_price(stock: StockChanged, context: Context) -> PriceChanged | None:
    did("priced", context)
    return PriceChanged(left=stock.left - 1) if stock.left else None
