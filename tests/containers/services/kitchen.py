"""A service whose work goes as the test likes: the dish decides."""

from datetime import timedelta

from events import DishOrdered
from redis import Redis

from choreo import Context, PermanentFailure, Retry, Service, Terms

#: The longest that a dish waits to be taken out of the oven; then something is wrong with the test.
OVEN_SECONDS = 60

# A test does not wait half a minute to see that the work of a dead worker is taken over.
app = Service("kitchen", retry=Retry(times=2, first=0.2), terms=Terms(lease=timedelta(seconds=2)))
app.conf.broker_transport_options = {"consumer_timeout": 3}


@app.on(DishOrdered)
def cook(order: DishOrdered, context: Context) -> None:
    """Says what it does, so that a test can follow it in the log."""
    print(f"cooking {context.subject}, attempt {context.attempt}", flush=True)
    if order.dish == "roast":
        Redis.from_url(app.conf.broker_url).blpop([f"oven:{context.subject}"], timeout=OVEN_SECONDS)
    if order.dish == "souffle" and context.attempt == 1:
        raise OSError("it has collapsed")
    if order.dish == "unicorn":
        raise PermanentFailure("there are none left")
    print(f"served {context.subject}", flush=True)
