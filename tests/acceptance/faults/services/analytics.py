"""Hears every event, and counts reminders and vouchers."""

from choreo import Context, Envelope, HandlerPaused, HandlerResumed
from tests.acceptance.faults.services.making import did, made
from tests.acceptance.faults.services.words import ReminderSent, VoucherBought

app = made("analytics")


@app.on("#")
def count_event(event: Envelope) -> None:
    pass


@app.on(ReminderSent)
def remind(reminder: ReminderSent, context: Context) -> None:
    did("reminded", context)


@app.on(VoucherBought)
def note_voucher(voucher: VoucherBought, context: Context) -> None:
    did("noted", context)


@app.on(HandlerPaused, HandlerResumed)
def note_pause(event: Envelope, context: Context) -> None:
    did(event.type, context)
