"""Hears every event."""

from choreo import Envelope
from tests.acceptance.faults.services.making import made

app = made("analytics")


@app.on("#")
def count_event(event: Envelope) -> None:
    pass
