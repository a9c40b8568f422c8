"""A slow service, whose only worker consumes one of its two queues."""

import time

from choreo import Context
from tests.acceptance.faults.services.making import did, made
from tests.acceptance.faults.services.words import ArrivalNoted, RefusalNoted

app = made("texting")


@app.on(ArrivalNoted)
def text_arrival(arrival: ArrivalNoted, context: Context) -> None:
    time.sleep(0.3)
    did("texted", context)


@app.on(RefusalNoted)
def text_refusal(refusal: RefusalNoted, context: Context) -> None:
    did("texted", context)
