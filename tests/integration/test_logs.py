"""What a worker logs: one line for each run of a handler, in every pool, as text and as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually

POOLS = ["prefork", "threads", "solo", "gevent"]


@pytest.fixture
def payment(redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    payment = Payment(redis_url, redis_url, namespace, tmp_path, app="logs_app")
    yield payment
    payment.close()


def handle(payment: Payment, *options: str, **settings: Any) -> str:
    """
    What a worker has logged that has handled three orders (a success, a failure that is retried, a refusal) and two
    other tasks.
    """
    worker = payment.begin(*options, **settings)
    eventually(lambda: "ready." in worker.log() + read(payment), reason="the worker is ready")
    for number in (1, 2, 3):
        payment.app.publish(OrderPlaced(number=number), subject=f"ORD-{number}")
    for number in (1, 0):
        payment.app.send_task("payment.plain", [number], queue=f"{payment.namespace}.payment")
    eventually(lambda: len(list(payment.app.dead_letters)) == 2, reason="two dead letters")
    for last in ("ORD-1): done in", "ORD-2 (exhausted", "ORD-3 (refused", "ZeroDivisionError", "payment.plain["):
        eventually(lambda last=last: last in worker.log() + read(payment), reason=last)
    return worker.log()


def read(payment: Payment) -> str:
    """The file that --logfile names."""
    place = payment.directory / "json.log"
    return place.read_text() if place.exists() else ""


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("lane", [True, False])
def test_each_run_is_one_line_and_other_tasks_keep_theirs(payment: Payment, pool: str, lane: bool):
    assert_told_once(handle(payment, "--pool", pool, choreo_fast_lane=lane))


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_each_run_is_one_line_behind_rabbitmq(
    rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path, pool: str
):
    payment = Payment(rabbitmq_url, redis_url, namespace, tmp_path, app="logs_app")
    try:
        assert_told_once(handle(payment, "--pool", pool))
    finally:
        payment.close()


def assert_told_once(log: str) -> None:
    lines = [line for line in log.splitlines() if "payment.charge_customer" in line and "/" in line.partition("]")[0]]
    said = sorted(line.partition(": ")[2].partition("/")[0] for line in lines)
    assert said == ["ERROR", "ERROR", "INFO", "WARNING"], log
    (done,) = [line for line in lines if "INFO/" in line]
    assert "payment.charge_customer(order.placed ORD-1): done in " in done
    assert "[attempt 1 of 2, waited " in done
    assert "attempt 1 of 2 failed, the next is in 0.0 s: OSError: the gateway\\nis down [took " in log
    # The only traceback is that of the ordinary task.
    assert log.count("Traceback") == 1
    assert "Task payment.plain[" in log
    assert "] succeeded in " in log


@pytest.mark.parametrize("pool", POOLS)
def test_as_json_every_line_is_an_object_with_its_run(payment: Payment, pool: str, tmp_path: Path):
    place = tmp_path / "json.log"
    printed = handle(payment, "--pool", pool, "--logfile", str(place), choreo_log_format="json")

    records = [json.loads(line) for line in place.read_text().splitlines()]
    assert printed == "", "there is no banner, and nothing beside the file"
    runs = [record for record in records if "outcome" in record and record["handler"] == "payment.charge_customer"]
    assert sorted((run["subject"], run["attempt"], run["level"], run["outcome"]) for run in runs) == [
        ("ORD-1", 1, "INFO", "done"),
        ("ORD-2", 1, "WARNING", "retry"),
        ("ORD-2", 2, "ERROR", "dead letter"),
        ("ORD-3", 1, "ERROR", "dead letter"),
    ]
    own = [record for record in records if record["logger"] == "shop" and "story" in record]
    assert {(record["message"], record["subject"]) for record in own} == {
        (f"charging {number}", f"ORD-{number}") for number in (1, 2, 3)
    }
    plain = [record for record in records if record.get("task") == "payment.plain"]
    assert {"plain 1", "plain 0"} <= {record["message"] for record in plain}
    (failure,) = [record for record in plain if record["level"] == "ERROR"]
    assert failure["error"].startswith("ZeroDivisionError: ")
    assert "Traceback" in failure["traceback"]


def test_at_debug_the_tracebacks_are_in_the_log(payment: Payment):
    log = handle(payment, "--pool", "solo", "-l", "DEBUG")

    assert log.count('raise OSError("the gateway') == 2
    assert log.count('raise PermanentFailure("no such card")') == 1
    assert "DEBUG/MainProcess] Task payment.charge_customer[" in log
