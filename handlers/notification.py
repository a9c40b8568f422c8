"""The notification service: sends the customer text messages about the order, and alarms the operator."""

from pathlib import Path

from choreo import Context, DeadLetterRecorded, Retry, Service, StoryOverdue
from handlers.events import DriverAssigned, OrderDelayed, OrderRejectedByRestaurant, PaymentFailed
from handlers.ledger import Ledger, data_directory


class SmsGatewayDown(Exception):
    """The provider of text messages does not answer."""


# Short waits, so that the demo soon shows a dead letter. For a real gateway use Retry(times=8, cap=300).
app = Service("notification", retry=Retry(times=2, first=0.4, only=(SmsGatewayDown,)))

ledger = Ledger(
    "notification",
    """
    CREATE TABLE IF NOT EXISTS messages (
        idempotency_key TEXT PRIMARY KEY, order_id TEXT NOT NULL, customer_id TEXT, text TEXT
    );
    CREATE TABLE IF NOT EXISTS alarms (id TEXT PRIMARY KEY, order_id TEXT, error TEXT);
    """,
)


@app.on(DriverAssigned)
def text_arrival(assigned: DriverAssigned, context: Context) -> None:
    """Text the customer that the driver is on the way."""
    minutes = assigned.estimated_minutes
    _text(assigned.customer_id, f"Your driver {assigned.driver_id} is on the way: {minutes} minutes.", context)


@app.on(OrderRejectedByRestaurant)
def text_rejection(rejected: OrderRejectedByRestaurant, context: Context) -> None:
    """Text the customer that the restaurant has rejected the order."""
    text = f"Sorry, {rejected.restaurant_id} cannot take your order: {rejected.reason}. You do not pay."
    _text(rejected.customer_id, text, context)


@app.on(PaymentFailed)
def text_refusal(failed: PaymentFailed, context: Context) -> None:
    """Text the customer that the payment failed."""
    _text(failed.customer_id, f"We could not take your payment: {failed.reason}.", context)


@app.on(OrderDelayed)
def text_delay(delayed: OrderDelayed, context: Context) -> None:
    """Text the customer that the order is late."""
    _text(delayed.customer_id, f"Your order is late, we still wait for {delayed.missing}.", context)


@app.on(StoryOverdue)
def alarm_support(overdue: StoryOverdue, context: Context) -> None:
    """Record an alarm for the operator: an order has neither a driver nor a refusal in time."""
    error = f"{overdue.story} overdue, without {', '.join(overdue.missing) or 'an end'}"
    ledger.write("INSERT OR IGNORE INTO alarms VALUES (?, ?, ?)", context.idempotency_key, overdue.key, error)


# An alert is an ordinary event. This one tells of the dead letters of every service, also of this one.
@app.on(DeadLetterRecorded)
def alarm_operator(alert: DeadLetterRecorded, context: Context) -> None:
    """Record an alarm for the operator: a handler has failed for good."""
    error = f"{alert.handler}: {alert.error}"
    ledger.write("INSERT OR IGNORE INTO alarms VALUES (?, ?, ?)", alert.letter, context.subject, error)


def gateway_outage() -> Path:
    """Return the path of a file. While it exists, the SMS gateway is down."""
    return data_directory() / "sms-gateway-is-down"


def _text(customer_id: str, text: str, context: Context) -> None:
    """Stand-in for the SMS gateway. It sends one message for each idempotency key."""
    if gateway_outage().exists():
        raise SmsGatewayDown("no route to sms.example.com")
    ledger.write(
        "INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?)",
        context.idempotency_key,
        context.subject,
        customer_id,
        text,
    )
