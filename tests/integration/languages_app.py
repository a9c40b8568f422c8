"""The service that programs in other languages announce events to, and hear events of."""

import json
import os

import redis

from choreo import Event, Service

SETTINGS = json.loads(os.environ.get("CHOREO_TEST_SETTINGS", "{}"))

app = Service("payment", broker=os.environ.get("CHOREO_TEST_BROKER") or None, config=SETTINGS)


class OrderPlaced(Event):
    total_cents: int


class PaymentCharged(Event):
    amount_cents: int


class TaxRecorded(Event, foreign="Tax.Recorded.v1"):
    tax_cents: int


@app.on(OrderPlaced)
def charge(order: OrderPlaced) -> PaymentCharged:
    return PaymentCharged(amount_cents=order.total_cents)


@app.on(TaxRecorded)
def note_tax(tax: TaxRecorded) -> None:
    client = redis.Redis.from_url(app.conf.choreo_store_url, decode_responses=True)
    client.rpush(f"{app.runtime.topology.namespace}:tax", tax.tax_cents)
    client.rpush(f"{app.runtime.topology.namespace}:stories", f"{tax.meta.correlation_id} {tax.meta.foreign_type}")
    client.close()
