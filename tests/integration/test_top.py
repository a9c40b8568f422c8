"""`choreo top` and `choreo stuck` with real workers, on Redis and RabbitMQ, from another process and in a terminal."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from choreo.cli import choreo
from tests.ending import with_this_process
from tests.integration.orders import OrderPlaced
from tests.integration.workers import ROOT, Payment
from tests.waiting import DEADLINE, eventually

HANDLER = "payment.charge_customer"


class Operator:
    """A shell on another machine, which knows broker, store and namespace."""

    def __init__(self, payment: Payment, store: str) -> None:
        self.payment = payment
        self.where = ["--broker", payment.broker, "--store", store, "--namespace", payment.namespace]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "choreo", *self.where, *arguments]

    def top(self) -> dict[str, Any]:
        # Asked often, and so in this process.
        done = CliRunner().invoke(choreo, [*self.where, "top", "--json", "--interval", "0"])
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.exit_code == bool(found["troubles"])
        return found

    def handler(self) -> dict[str, Any]:
        (found,) = [one for one in self.top()["handlers"] if one["name"] == HANDLER]
        return found

    def causes(self) -> list[str]:
        command = self.command("stuck", "--json", HANDLER)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False)
        return [json.loads(line)["cause"] for line in done.stdout.splitlines()]


@pytest.fixture(params=["redis", "rabbitmq"])
def operator(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    broker = request.getfixturevalue(f"{request.param}_url")
    payment = Payment(broker, redis_url, namespace, tmp_path)
    yield Operator(payment, redis_url)
    payment.close()


def test_from_a_stopped_service_to_one_that_has_caught_up(operator: Operator) -> None:
    payment = operator.payment
    with payment.worker("--pool", "solo"):
        assert operator.handler()["workers"] == 1
        assert operator.handler()["pools"] == ["solo"]

    for number in range(3):
        payment.app.publish(OrderPlaced(number=number), subject=f"ORD-{number}")

    # It was killed, so it counts as alive for a while. Its end is told here, as time tells it.
    eventually_gone(operator)
    handler = operator.handler()
    assert (handler["waiting"], handler["trouble"]) == (3, "no worker of payment lives")
    assert operator.causes() == ["no worker lives"]

    with payment.worker("-Q", f"{payment.namespace}.payment", name="two"):
        eventually(lambda: operator.handler()["living"] == 1, DEADLINE, "the worker to be known")
        assert operator.handler()["trouble"] == "no worker consumes its queue"
        assert operator.causes() == ["no worker consumes its queue"]

        with payment.worker("--pool", "solo", name="three"):
            eventually(lambda: operator.handler()["waiting"] == 0, DEADLINE, "the queue to be empty")
            eventually(lambda: operator.handler()["outgoing"] > 0, DEADLINE, "the runs to be recorded")
            handler = operator.handler()
            assert (handler["workers"], handler["trouble"]) == (1, "")
            assert handler["p95"] < 10
            assert operator.causes() == []


def eventually_gone(operator: Operator) -> None:
    store = operator.payment.app.runtime.store
    for worker in store.presence("payment").workers:
        store.leave("payment", worker.name)


def test_a_terminal_gets_screens_until_q_is_pressed(operator: Operator) -> None:
    operator.payment.app.runtime.store.register([HANDLER])
    main, side = pty.openpty()
    process = subprocess.Popen(
        operator.command("top", "--interval", "0.1"),
        cwd=ROOT,
        stdin=side,
        stdout=side,
        stderr=side,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
        preexec_fn=with_this_process,
    )
    os.close(side)
    seen = read_until(main, lambda text: text.count("HANDLER") >= 3)
    assert HANDLER in seen
    assert "\x1b[" in seen

    os.write(main, b"q")
    read_until(main, lambda _: process.poll() is not None)

    assert process.wait(DEADLINE) == 0
    os.close(main)


def read_until(terminal: int, done: Any) -> str:
    """What the terminal shows until this is true of it."""
    seen, end = "", time.monotonic() + DEADLINE
    while not done(seen):
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                seen += os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # the other side is closed
                return seen
    return seen
