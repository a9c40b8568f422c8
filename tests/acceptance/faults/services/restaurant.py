"""Answers orders; and cannot, if they have a fault."""

from choreo import Context, Retry
from tests.acceptance.faults.services.making import did, is_mended, made
from tests.acceptance.faults.services.words import OrderConfirmed, OrderPlaced, OrderRejected

app = made("restaurant", retry=Retry(times=0))


@app.on(OrderPlaced)
def answer_order(order: OrderPlaced, context: Context) -> OrderConfirmed | OrderRejected:
    if order.fault == "no menu" and not is_mended(context):
        raise KeyError("menu 7")
    did("confirmed", context)
    return OrderConfirmed()
