"""Hears the same orders as the payment service, and leaves its dead letters to the log."""

import os
import signal

from choreo import Context, Envelope, Retry
from tests.integration.services.making import made, note
from tests.integration.services.words import OrderPlaced, PaymentCharged

app = made("loyalty")


@app.on(OrderPlaced, retry=Retry(times=0))
def award(order: OrderPlaced, context: Context) -> None:
    note("award", context.subject)
    if order.behave == "fail at loyalty":
        raise ValueError("no points left")


@app.on(PaymentCharged)
def thank(charged: Envelope) -> None:
    note("thank", charged.subject, cause=charged.causation_id, story=charged.correlation_id, source=charged.source)


@app.task(name="loyalty.vanish", acks_late=True, reject_on_worker_lost=True)
def vanish() -> None:
    """Ends the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)
