"""The vocabulary of the bad platform."""

from datetime import datetime, timedelta

from choreo import Event


class ChargePayment(Event, fact=True):  # finds CH101 CH102
    order_id: str


class PaymentCharged(Event):  # finds CH701 CH709
    order_id: str
    amount_cents: int
    currency: str = "EUR"
    customer_id: str = ""
    customer_name: str = ""
    customer_email: str = ""
    street: str = ""
    city: str = ""
    country: str = ""
    card_number: str = ""
    card_holder: str = ""
    bank: str = ""
    branch: str = ""
    iban: str = ""
    tax_cents: int = 0
    fee_cents: int = 0
    risk: float = 0.0
    channel: str = ""
    campaign: str = ""
    notes: str = ""


class OrderPlaced(Event, version=2):
    order_id: str
    total_cents: int


class OrderConfirmed(Event):
    order_id: str


class OrderShipped(Event, version=3):  # finds CH704 CH706 CH707 CH708
    order_id: str
    tracking_number: int = 2**60
    duration: timedelta = timedelta(0)
    shipped_at: datetime


class OrdersShipped(Event):  # finds CH201 CH204
    order_id: str


class StockChecked(Event):
    order_id: str


class StockRefilled(Event):
    order_id: str


class InvoicePrinted(Event):
    order_id: str


class LabelPrinted(Event):
    order_id: str
    printer: int | None = None


class RouteDriven(Event):
    order_id: str


class OrderRejected(Event):
    order_id: str
