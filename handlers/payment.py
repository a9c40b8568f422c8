"""The payment service: charges a customer's card, and refunds the charge if the restaurant rejects the order."""

from choreo import Breaker, Context, PermanentFailure, Retry, Service
from handlers.events import (
    OrderConfirmedByRestaurant,
    OrderPlaced,
    OrderRejectedByRestaurant,
    PaymentCharged,
    PaymentFailed,
    PaymentRefunded,
)
from handlers.ledger import Ledger

#: Cards on file with a fault: customer → kind, like the test cards of a payment provider. All other cards are good.
CARDS = {"carol": "flaky", "olga": "expired", "victor": "frozen"}


class CardRefused(Exception):
    """The bank refused the card. A retry would not help."""


class GatewayTimeout(Exception):
    """The payment provider did not answer. A retry may help."""


app = Service("payment")

ledger = Ledger(
    "payment",
    """
    CREATE TABLE IF NOT EXISTS charges (idempotency_key TEXT PRIMARY KEY, order_id TEXT NOT NULL, amount_cents INTEGER);
    CREATE TABLE IF NOT EXISTS refunds (idempotency_key TEXT PRIMARY KEY, order_id TEXT NOT NULL, amount_cents INTEGER);
    """,
)


# While the provider is away, orders wait. Without a breaker each would become a dead letter after a minute.
@app.on(OrderPlaced, retry=Retry(times=5, first=0.5, cap=30.0, only=(GatewayTimeout,), breaker=Breaker()))
def charge_customer(order: OrderPlaced, context: Context) -> PaymentCharged | PaymentFailed:
    """Charge the card on file. A refused card is an ordinary outcome, not an error."""
    try:
        _charge(CARDS.get(order.customer_id, "good"), order.total_cents, context)
    except CardRefused as refusal:
        return PaymentFailed(customer_id=order.customer_id, reason=str(refusal))
    return PaymentCharged(
        customer_id=order.customer_id,
        amount_cents=order.total_cents,
        payment_id=context.subject.replace("ORD", "PAY"),
    )


# Charging and cooking begin at the same time, so a rejection may arrive before the charge or after it. Only what was
# charged is refunded, once. A confirmed order is not refunded any more.
@app.on(OrderRejectedByRestaurant, undoes=charge_customer, unless=OrderConfirmedByRestaurant)
def refund_customer(charged: PaymentCharged, context: Context) -> PaymentRefunded:
    """Refund an order that was charged and rejected."""
    ledger.write(
        "INSERT OR IGNORE INTO refunds VALUES (?, ?, ?)", context.idempotency_key, context.subject, charged.amount_cents
    )
    return PaymentRefunded(
        customer_id=charged.customer_id, amount_cents=charged.amount_cents, payment_id=charged.payment_id
    )


def _charge(card: str, amount_cents: int, context: Context) -> None:
    """Stand-in for the payment provider. It charges once for each idempotency key."""
    if card == "expired":
        raise CardRefused("the card has expired")
    if card == "flaky" and context.attempt <= 2:
        raise GatewayTimeout("no answer after 2 s")
    if card == "frozen":
        raise PermanentFailure("the provider has frozen this account: somebody has to call them")
    ledger.write(
        "INSERT OR IGNORE INTO charges VALUES (?, ?, ?)", context.idempotency_key, context.subject, amount_cents
    )
