"""Charges orders. Its provider is away, is closed for the night, or the service forgets to say that it charged."""

from choreo import Context, Retry, RetryLater
from tests.browser.services.making import has, ledger, made
from tests.browser.services.words import OrderPlaced, PaymentCharged

app = made("payment")
effects = ledger("payment")


@app.on(OrderPlaced, retry=Retry(times=3, only=(TimeoutError,)))
def charge_customer(order: OrderPlaced, context: Context) -> PaymentCharged | None:
    if has("provider-away"):
        raise ConnectionError(f"no route to payments.example.com for {context.subject}")
    if has("night"):
        raise RetryLater(1200)
    if has("forgetful"):
        return None
    effects.write("INSERT INTO effects VALUES (?, ?)", context.idempotency_key, context.subject)
    return PaymentCharged()
