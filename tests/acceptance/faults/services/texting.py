"""A slow service, whose only worker consumes one of its two queues."""

import time

from tests.acceptance.faults.services.making import made
from tests.acceptance.faults.services.words import ArrivalNoted, RefusalNoted

app = made("texting")


@app.on(ArrivalNoted)
def text_arrival(arrival: ArrivalNoted) -> None:
    time.sleep(0.7)


@app.on(RefusalNoted)
def text_refusal(refusal: RefusalNoted) -> None:
    pass
