"""Hears by pattern."""

from choreo import Envelope
from tests.integration.services.making import made, note

app = made("analytics")


@app.on("order.*", "payment.#")
def count(event: Envelope) -> None:
    note("count", event.subject, type=event.type)


@app.on("driver.assigned")
def watch(event: Envelope) -> None:
    note("watch", event.subject, data=event.data)
