"""Charges orders, with every fault that a payment can have."""

from choreo import PermanentFailure, Retry, RetryLater
from tests.acceptance.faults.services.making import made
from tests.acceptance.faults.services.words import (
    OrderPlaced,
    PaymentCharged,
    PaymentFailed,
    PointsEarned,
    PriceChanged,
    StockChanged,
)

app = made("payment", retry=Retry(times=5))


@app.on(OrderPlaced)
def charge_customer(order: OrderPlaced) -> PaymentCharged | PaymentFailed | None:
    if order.fault == "forgotten":
        return None
    if order.fault == "frozen":
        raise PermanentFailure("the provider has frozen this account")
    if order.fault == "outage":
        raise PermanentFailure("no route to payments.example.com")
    if order.fault == "night":
        raise RetryLater(1200)
    return PaymentFailed(reason="the card has expired") if order.fault == "refused" else PaymentCharged()


@app.on(PointsEarned)
def award_points(earned: PointsEarned) -> None:
    raise PermanentFailure(f"unknown currency {earned.currency}")


@app.on(PriceChanged)
def follow_price(price: PriceChanged) -> StockChanged | None:
    return StockChanged(left=price.left - 1) if price.left else None
