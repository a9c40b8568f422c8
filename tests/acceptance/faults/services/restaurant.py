"""Answers orders; and cannot, if they have a fault."""

from choreo import Retry
from tests.acceptance.faults.services.making import made
from tests.acceptance.faults.services.words import OrderConfirmed, OrderPlaced, OrderRejected

app = made("restaurant", retry=Retry(times=0))


@app.on(OrderPlaced)
def answer_order(order: OrderPlaced) -> OrderConfirmed | OrderRejected:
    if order.fault == "no menu":
        raise KeyError("menu 7")
    return OrderConfirmed()
