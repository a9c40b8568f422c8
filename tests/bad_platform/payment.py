"""Does what it is told, and loses what fails."""

import logging

from choreo import Service
from tests.bad_platform.events import ChargePayment, PaymentCharged

logger = logging.getLogger(__name__)

app = Service("payment", config=None)  # finds CH601


@app.on(ChargePayment)
def charge(command: ChargePayment) -> PaymentCharged | None:  # finds CH602 CH603
    """Charge, and forget the errors."""
    try:
        return PaymentCharged(order_id=command.order_id, amount_cents=1)
    except Exception:
        logger.exception("never mind")
        return None
