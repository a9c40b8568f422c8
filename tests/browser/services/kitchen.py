"""Confirms orders. It cannot while its menu is lost."""

from choreo import Context
from tests.browser.services.making import has, ledger, made
from tests.browser.services.words import OrderConfirmed, OrderPlaced

app = made("kitchen")
effects = ledger("kitchen")


@app.on(OrderPlaced)
def answer_order(order: OrderPlaced, context: Context) -> OrderConfirmed:
    if has("no-menu"):
        raise KeyError("menu <b>7</b>")
    effects.write("INSERT INTO effects VALUES (?, ?)", context.idempotency_key, context.subject)
    return OrderConfirmed()
