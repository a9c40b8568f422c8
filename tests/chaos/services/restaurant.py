"""Confirms an order, or rejects it."""

from choreo import Context
from tests.chaos.services import book
from tests.chaos.services.base import service
from tests.chaos.services.events import OrderConfirmedByRestaurant, OrderPlaced, OrderRejectedByRestaurant

app = service("restaurant")


@app.on(OrderPlaced)
def confirm_order(order: OrderPlaced, context: Context) -> OrderConfirmedByRestaurant | OrderRejectedByRestaurant:
    book.work(context, order.meta, seconds=0.01)
    if order.number % 10 == 9:
        return OrderRejectedByRestaurant(number=order.number)
    return OrderConfirmedByRestaurant(number=order.number)
