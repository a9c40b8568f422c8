"""Answers itself, and reads what nobody sends."""

from pydantic import ConfigDict

from choreo import Envelope, Event, Service
from tests.bad_platform.events import (
    InvoicePrinted,
    LabelPrinted,
    OrderConfirmed,
    OrderRejected,
    StockChecked,
    StockRefilled,
)

app = Service("warehouse", config=None)  # finds CH601


class OrderPlaced(Event):  # finds CH705
    model_config = ConfigDict(extra="forbid")

    order_id: str
    total_cents: int


@app.on(OrderPlaced)
def reserve(order: OrderPlaced) -> StockChecked:  # finds CH703
    """Read the fields of long ago."""
    return StockChecked(order_id=order.order_id)


@app.on(StockChecked)
def refill(checked: StockChecked) -> StockRefilled:  # finds CH401
    """Refill what was checked."""
    return StockRefilled(order_id=checked.order_id)


@app.on(StockRefilled)
def check(refilled: StockRefilled) -> StockChecked:
    """Check what was refilled."""
    return StockChecked(order_id=refilled.order_id)


@app.on("order.confirmd")
def pack(order: Envelope) -> None:  # finds CH202
    """Hear nothing, for ever."""


@app.on("order.*.by_warehouse")
def count(order: Envelope) -> None:  # finds CH203
    """Hear nothing, for ever."""


@app.on(OrderConfirmed)
def print_one(order: OrderConfirmed) -> InvoicePrinted | LabelPrinted:  # finds CH603
    """Print one of the two that are waited for."""
    return InvoicePrinted(order_id=order.order_id)


@app.on(OrderConfirmed)
def inspect(order: OrderConfirmed) -> OrderRejected | None:
    """Reject what was charged and confirmed: nobody gives the money back."""
