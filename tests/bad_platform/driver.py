"""Assumes that a confirmation comes before its shipment, and keeps it in memory."""

from collections import defaultdict
from functools import wraps
from typing import Any

from choreo import Service
from tests.bad_platform.events import (
    InvoicePrinted,
    LabelPrinted,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    OrderShipped,
    OrdersShipped,
    RouteDriven,
)

app = Service("driver", announces=[OrdersShipped], config=None)  # finds CH601

confirmed: dict[str, OrderConfirmed] = {}
counts: defaultdict[str, int] = defaultdict(int)


def timed(function: Any) -> Any:
    """Measure a function."""

    @wraps(function)
    def measured(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return measured


@app.on(OrderConfirmed)
def remember(order: OrderConfirmed) -> None:
    """Keep it in this process."""
    confirmed[order.order_id] = order


@timed
@app.on(OrderPlaced)
def ship(order: OrderPlaced, gateway: Any = None) -> OrderShipped:  # finds CH501 CH801 CH803
    """Rely on what came before."""
    return _shipment(confirmed[order.order_id])


@app.on(OrderShipped)
def tell(shipped: OrderShipped):  # finds CH802
    """Announce something, or nothing."""


@app.join(InvoicePrinted, LabelPrinted, by={InvoicePrinted: "order_id", LabelPrinted: "printer"})
def send(invoice: InvoicePrinted, label: LabelPrinted) -> None:  # finds CH302 CH304
    """Wait for what never comes."""


@app.join(OrderShipped, RouteDriven)
def arrive(shipped: OrderShipped, route: RouteDriven) -> None:  # finds CH301
    """Wait for what nobody announces."""


@app.on(OrderRejected)
def turn_back(rejected: OrderRejected) -> None:
    """Hear of a failure."""


def _shipment(order: OrderConfirmed) -> OrderShipped:
    return OrderShipped.model_construct(order_id=order.order_id)
