"""Charges orders, with every fault that a payment can have."""

from choreo import Breaker, Context, PermanentFailure, Retry, RetryLater
from tests.acceptance.faults.services.making import did, is_mended, made, outage_of
from tests.acceptance.faults.services.words import (
    OrderPlaced,
    PaymentCharged,
    PaymentFailed,
    PointsEarned,
    PriceChanged,
    StockChanged,
    TicketBooked,
    TripBooked,
    TripCancelled,
    TripPaid,
)

app = made("payment", retry=Retry(times=5))


@app.on(OrderPlaced)
def charge_customer(order: OrderPlaced, context: Context) -> PaymentCharged | PaymentFailed | None:
    match "" if is_mended(context) else order.fault:
        case "forgotten":
            return None
        case "frozen":
            raise PermanentFailure("the provider has frozen this account")
        case "outage":
            raise PermanentFailure("no route to payments.example.com")
        case "night":
            raise RetryLater(1200)
        case "refused":
            return PaymentFailed(reason="the card has expired")
    did("charged", context)
    return PaymentCharged()


@app.on(PointsEarned)
def award_points(earned: PointsEarned, context: Context) -> None:
    if not is_mended(context):
        raise PermanentFailure(f"unknown currency {earned.currency}")
    did("awarded", context)


@app.on(PriceChanged)
def follow_price(price: PriceChanged, context: Context) -> StockChanged | None:
    did("followed", context)
    return StockChanged(left=price.left - 1) if price.left else None


@app.on(TicketBooked, retry=Retry(times=2, first=0.1, cap=0.2, breaker=Breaker(failures=3, first=0.5, cap=1.0)))
def charge_ticket(ticket: TicketBooked, context: Context) -> None:
    if outage_of().exists():
        raise ConnectionError("no route to payments.example.com")
    did("charged", context)


@app.on(TripBooked)
def take_fare(trip: TripBooked, context: Context) -> TripPaid:
    did("fare taken", context)
    return TripPaid()


@app.on(TripCancelled, undoes=take_fare)
def refund_fare(paid: TripPaid, context: Context) -> None:
    if not is_mended(context):
        raise PermanentFailure("the card has been closed")
    did("fare refunded", context)
