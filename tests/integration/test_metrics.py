"""`choreo metrics --port` beside a real worker."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.ending import with_this_process
from tests.integration.orders import OrderCancelled, OrderPlaced
from tests.integration.workers import ROOT, Payment
from tests.waiting import DEADLINE, eventually


@pytest.fixture(params=["redis_url", "rabbitmq_url"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    payment = Payment(request.getfixturevalue(request.param), redis_url, namespace, tmp_path)
    yield payment
    payment.close()


@pytest.fixture
def url(payment: Payment, tmp_path: Path) -> Iterator[str]:
    """The address of the metrics, of a process that ends on Ctrl-C."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    places = {"CHOREO_BROKER_URL": payment.broker, "CHOREO_STORE_URL": payment.settings["choreo_store_url"]}
    with (tmp_path / "metrics.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "choreo", "metrics", "--port", str(port)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=with_this_process,
            env=os.environ | places | {"CHOREO_NAMESPACE": payment.namespace},
        )
    yield f"http://127.0.0.1:{port}/metrics"
    process.send_signal(2)
    assert process.wait(DEADLINE) == 0, (tmp_path / "metrics.log").read_text()


def test_it_serves_what_is_now(payment: Payment, url: str, tmp_path: Path) -> None:
    def has(line: str) -> bool:
        with suppress(URLError):
            return line in urlopen(url, timeout=30).read().decode().splitlines()
        return False

    with payment.worker("--pool", "solo") as worker:
        eventually(lambda: has('choreo_workers{service="payment"} 1.0'), reason="a worker")
        assert has('choreo_up{part="broker"} 1.0')
        worker.stop()
    eventually(lambda: has('choreo_workers{service="payment"} 0.0'), reason="no worker")
    payment.app.publish(OrderPlaced())
    payment.app.publish(OrderCancelled())

    handler = '{handler="payment.charge_customer",service="payment"}'
    eventually(lambda: has(f"choreo_waiting_messages{handler} 1.0"), reason="a message")
    eventually(lambda: has('choreo_unheard_events_total{type="order.cancelled"} 1.0'), reason="an unheard event")
