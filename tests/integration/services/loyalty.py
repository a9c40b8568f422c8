"""Hears the same orders as the payment service, and leaves its dead letters to the log."""

import os
import signal

from choreo import Context, DeadLetterRecorded, Envelope, Retry
from tests.integration.services.making import made, note, noted
from tests.integration.services.words import OperatorCalled, OrderPlaced, PaymentCharged

app = made("loyalty")


@app.on(OrderPlaced, retry=Retry(times=0))
def award(order: OrderPlaced, context: Context) -> None:
    note("award", context.subject)
    if order.behave == "fail at loyalty":
        raise ValueError("no points left")
    if order.behave == "fail at loyalty until replayed" and noted("award", context.subject) == 1:
        raise ConnectionError(f"the shop of {context.subject} is away")


@app.on(PaymentCharged)
def thank(charged: Envelope) -> None:
    note("thank", charged.subject, cause=charged.causation_id, story=charged.correlation_id, source=charged.source)


@app.on(OperatorCalled)
def answer(called: OperatorCalled) -> None:
    meta = called.meta
    note("answer", meta.subject, letter=called.letter, id=meta.id, cause=meta.causation_id, story=meta.correlation_id)


@app.on(DeadLetterRecorded, retry=Retry(times=0))
def page(alert: DeadLetterRecorded) -> None:
    meta = alert.meta
    note(
        "page",
        meta.subject,
        letter=alert.letter,
        source=meta.source,
        cause=meta.causation_id,
        story=meta.correlation_id,
    )
    if meta.subject.endswith("-unpaged"):
        raise ValueError("the pager is away")


@app.task(name="loyalty.vanish", acks_late=True, reject_on_worker_lost=True)
def vanish() -> None:
    """Ends the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)
