"""One trace from the publisher through real workers: handlers, a retry and a join, on each broker and in each pool."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.workers import ROOT, Payment
from tests.waiting import DEADLINE, eventually


@pytest.fixture(params=["redis", "redis, lane off", "rabbitmq"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    broker = request.getfixturevalue("rabbitmq") if request.param == "rabbitmq" else redis_url
    payment = Payment(broker, redis_url, namespace, tmp_path, app="tracing_app")
    payment.settings["choreo_fast_lane"] = request.param != "redis, lane off"
    payment.app.conf.choreo_fast_lane = payment.settings["choreo_fast_lane"]
    payment.settings["spans"] = str(tmp_path / "spans")
    yield payment
    payment.close()


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_story_is_one_trace_of_which_a_join_links_its_parts(payment: Payment, tmp_path: Path, pool: str) -> None:
    def spans() -> list[dict[str, Any]]:
        text = (tmp_path / "spans").read_text() if (tmp_path / "spans").exists() else ""
        # The last line may be half written.
        return [json.loads(line) for line in text.split("\n")[:-1]]

    with payment.worker("--pool", pool):
        handle_request(payment)
        eventually(lambda: "process payment.tell" in {span["name"] for span in spans()}, reason="the last span")

    named: dict[str, list[dict[str, Any]]] = {}
    for span in sorted(spans(), key=lambda span: span["start_time"]):
        named.setdefault(span["name"], []).append(span)
    assert {name: len(found) for name, found in named.items()} == {
        "POST /orders": 1,
        "publish order.placed": 1,
        "process payment.confirm": 1,
        "publish order.confirmed": 1,
        "process payment.charge": 2,
        "ask the bank": 1,
        "publish payment.charged": 1,
        "process payment.assign": 1,
        "publish driver.assigned": 1,
        "process payment.tell": 1,
    }
    assert len({span["context"]["trace_id"] for span in spans()}) == 1
    parents = {name: {span["parent_id"] for span in found} for name, found in named.items()}
    ids = {name: found[-1]["context"]["span_id"] for name, found in named.items()}
    assert parents["POST /orders"] == {None}
    assert parents["publish order.placed"] == {ids["POST /orders"]}
    assert parents["process payment.confirm"] == parents["process payment.charge"] == {ids["publish order.placed"]}
    assert parents["publish order.confirmed"] == {ids["process payment.confirm"]}
    assert parents["ask the bank"] == {ids["process payment.charge"]}
    assert parents["publish payment.charged"] == {ids["ask the bank"]}
    assert parents["publish driver.assigned"] == {ids["process payment.assign"]}
    assert parents["process payment.tell"] == {ids["publish driver.assigned"]}

    parts = {ids["publish order.confirmed"], ids["publish payment.charged"]}
    [assign] = named["process payment.assign"]
    assert {link["context"]["span_id"] for link in assign["links"]} == parts
    assert assign["parent_id"] in parts

    story = named["publish order.placed"][0]["attributes"]["messaging.message.id"]
    failed, succeeded = named["process payment.charge"]
    assert (failed["status"]["status_code"], succeeded["status"]["status_code"]) == ("ERROR", "UNSET")
    assert [span["attributes"]["choreo.attempt"] for span in (failed, succeeded)] == [1, 2]
    assert failed["attributes"]["error.type"] == "ValueError"
    system = "rabbitmq" if payment.broker.startswith("amqp") else "redis"
    assert succeeded["kind"] == "SpanKind.CONSUMER"
    assert (
        succeeded["attributes"].items()
        >= {
            "messaging.system": system,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "payment.charge",
            "messaging.message.id": story,
            "messaging.message.conversation_id": story,
            "cloudevents.event_type": "order.placed",
            "choreo.subject": "ORD-1",
        }.items()
    )
    [charged] = named["publish payment.charged"]
    assert charged["kind"] == "SpanKind.PRODUCER"
    assert (
        charged["attributes"].items()
        >= {
            "messaging.system": system,
            "messaging.operation.name": "publish",
            "messaging.destination.name": "payment.charged",
            "messaging.message.conversation_id": story,
        }.items()
    )


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
@pytest.mark.parametrize("payment", ["redis"], indirect=True)
def test_a_worker_that_stops_exports_what_its_processes_have_not_exported_yet(
    payment: Payment, tmp_path: Path, pool: str
) -> None:
    payment.settings["batch"] = True
    with payment.worker("--pool", pool) as worker:
        handle_request(payment)
        eventually(lambda: payment.app.runtime.store.recent("payment.tell", 3600), reason="the last handler")
        worker.stop()

    names = [json.loads(line)["name"] for line in (tmp_path / "spans").read_text().splitlines()]
    assert {"POST /orders", "process payment.confirm", "process payment.charge", "process payment.tell"} <= {*names}


def handle_request(payment: Payment) -> None:
    """Publish an order, in a program of its own that records spans as well."""
    environment = {"CHOREO_TEST_SETTINGS": json.dumps(payment.settings), "CHOREO_TEST_BROKER": payment.broker}
    command = [sys.executable, "-m", payment.module]
    subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True, timeout=DEADLINE)
