"""Charges the customer. Every thirteenth card is refused, and every eleventh attempt fails and is tried again."""

from uuid import uuid4

from choreo import Context
from tests.chaos.services import book
from tests.chaos.services.base import service
from tests.chaos.services.events import OrderPlaced, PaymentCharged, PaymentFailed

app = service("payment")


@app.on(OrderPlaced)
def charge_customer(order: OrderPlaced, context: Context) -> PaymentCharged | PaymentFailed:
    if order.number % 11 == 10 and context.attempt == 1:
        raise ConnectionError("the card processor does not answer")
    book.work(context, order.meta, seconds=0.02)
    if order.number % 13 == 12:
        return PaymentFailed(number=order.number)
    return PaymentCharged(number=order.number, payment_id=str(uuid4()))
