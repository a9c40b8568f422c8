"""The service whose log the tests read: each order has the fate that its number says."""

import json
import logging
import os

from choreo import PermanentFailure, Retry, Service
from tests.integration.orders import OrderPlaced

app = Service("payment", broker=os.environ["CHOREO_TEST_BROKER"], config=json.loads(os.environ["CHOREO_TEST_SETTINGS"]))
logger = logging.getLogger("shop")


@app.on(OrderPlaced, retry=Retry(times=1, first=0.01))
def charge_customer(order: OrderPlaced) -> None:
    logger.warning("charging %d", order.number)
    if order.number == 2:
        raise OSError("the gateway\nis down")
    if order.number == 3:
        raise PermanentFailure("no such card")


@app.task(name="payment.plain")
def plain(number: int) -> int:
    logger.warning("plain %d", number)
    return 1 // number
