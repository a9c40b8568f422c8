"""Counts orders, and hears of trips, points and ratings by pattern."""

from choreo import Context, Envelope
from tests.chaos.services import book
from tests.chaos.services.base import service
from tests.chaos.services.events import OrderPlaced

app = service("analytics")


@app.on(OrderPlaced)
def count_order(order: OrderPlaced, context: Context) -> None:
    book.work(context, order.meta)


@app.on("driver.*", "points.#", "rating.*")
def count_result(event: Envelope, context: Context) -> None:
    book.work(context, event)
