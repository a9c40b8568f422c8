"""A service that records spans, each as one line of JSON in a file. Run as a program, it publishes an order."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult

from choreo import Context, Event, Retry, Service

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
SPANS = Path(SETTINGS.pop("spans"))
BATCH = SETTINGS.pop("batch", False)

# At INFO Celery logs each run, and the fast lane leaves the run to Celery.
for log in ("celery.app.trace", "celery.worker.strategy"):
    logging.getLogger(log).setLevel(logging.WARNING)


class ToFile(SpanExporter):
    """Appends each span to the file."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with SPANS.open("a") as file:
            file.writelines(span.to_json(indent=None) + "\n" for span in spans)
        return SpanExportResult.SUCCESS


class OrderPlaced(Event):
    pass


class OrderConfirmed(Event):
    pass


class PaymentCharged(Event):
    pass


class DriverAssigned(Event):
    pass


provider = TracerProvider()
# A batch is exported by a thread of its own, here not before the end of the process.
provider.add_span_processor(
    BatchSpanProcessor(ToFile(), schedule_delay_millis=600_000) if BATCH else SimpleSpanProcessor(ToFile())
)
trace.set_tracer_provider(provider)
app = Service("payment", broker=os.environ["CHOREO_TEST_BROKER"], config=SETTINGS, retry=Retry(times=1, first=0.01))


@app.on(OrderPlaced)
def confirm(order: OrderPlaced) -> OrderConfirmed:
    return OrderConfirmed()


@app.on(OrderPlaced)
def charge(order: OrderPlaced, context: Context):  # type: ignore[no-untyped-def]
    if context.attempt == 1:
        raise ValueError("no such account")
    with trace.get_tracer("bank").start_as_current_span("ask the bank"):
        app.publish(PaymentCharged())


@app.join(OrderConfirmed, PaymentCharged)
def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
    return DriverAssigned()


@app.on(DriverAssigned)
def tell(assigned: DriverAssigned) -> None: ...


if __name__ == "__main__":  # a web application, which handles one request
    with trace.get_tracer("web").start_as_current_span("POST /orders"):
        app.publish(OrderPlaced(), "ORD-1")
