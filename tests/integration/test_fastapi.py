"""docs/examples/orders_api.py: a FastAPI application that announces events, called by httpx, with a real worker."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from celery import _state

from choreo import PublishError
from choreo.local.server import EmbeddedServer
from choreo.testing import recorder, stage
from tests.chaos.proxy import Proxy
from tests.ending import with_this_process
from tests.waiting import DEADLINE, eventually

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
#: As the first lines of the example say.
COMMAND = "celery -A orders_api:app worker --pool threads --concurrency 100".split()
ORDER = {"customer_id": "alice", "total_cents": 2500}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server of its own: the example has no namespace."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def example(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(server.url, monkeypatch)


def load(broker: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the example, with this broker."""
    monkeypatch.setenv("BROKER_URL", broker)
    spec = importlib.util.spec_from_file_location("orders_api", EXAMPLES / "orders_api.py")
    assert spec is not None
    assert spec.loader is not None
    # The last service that a program makes is Celery's current app.
    current, module = _state._tls.current_app, importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "orders_api", module)
    spec.loader.exec_module(module)
    _state._tls.current_app = current
    return module


@asynccontextmanager
async def client_of(example: ModuleType) -> AsyncIterator[httpx.AsyncClient]:
    """A client, while the application lives as a server lets it live."""
    transport = httpx.ASGITransport(example.api)
    async with (
        example.api.router.lifespan_context(example.api),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        yield client


def run(call: Any) -> Any:
    return asyncio.run(asyncio.wait_for(call, DEADLINE))


@pytest.fixture
def worker(server: EmbeddedServer, tmp_path: Path) -> Iterator[Path]:
    """A real worker of the example, started as its first lines say. Gives its output."""
    output = tmp_path / "worker.log"
    environment = os.environ | {"BROKER_URL": server.url, "PYTHONUNBUFFERED": "1"}
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *COMMAND, "-l", "INFO"],
            cwd=EXAMPLES,
            env=environment,
            stdout=log,
            stderr=log,
            preexec_fn=with_this_process,
        )
        try:
            eventually(lambda: "ready." in output.read_text() or process.poll() is not None, reason="the worker")
            yield output
        finally:
            process.terminate()
            process.wait(DEADLINE)


def test_five_hundred_requests_at_once_are_confirmed_and_each_order_is_handled_once(
    example: ModuleType, worker: Path
) -> None:
    async def place() -> list[httpx.Response]:
        async with client_of(example) as client:
            return await asyncio.gather(*(client.post("/orders", json=ORDER) for _ in range(500)))

    answers = run(place())

    assert {answer.status_code for answer in answers} == {202}
    orders = sorted(answer.json()["order_id"] for answer in answers)
    eventually(lambda: worker.read_text().count(" comes in 30 minutes") >= 500, reason="500 confirmed orders")
    told = [line.partition(" comes in")[0].rpartition(" ")[2] for line in worker.read_text().splitlines()]
    assert sorted(order for order in told if order.startswith("ORD-")) == orders


def test_the_worker_is_started_as_the_example_says() -> None:
    assert " ".join(COMMAND) in (EXAMPLES / "orders_api.py").read_text()
    assert " ".join(COMMAND) in (EXAMPLES.parent / "async.md").read_text()


def test_many_orders_are_placed_with_one_request(example: ModuleType) -> None:
    async def place() -> httpx.Response:
        async with client_of(example) as client:
            return await client.post("/orders/import", json=[ORDER] * 700)

    with recorder(example.app) as recorded:
        answer = run(place())

    assert (answer.status_code, answer.json()) == (202, {"placed": 700})
    assert len(recorded.announced(example.OrderPlaced)) == 700


def test_a_broker_that_is_away_is_told_to_the_client(example: ModuleType) -> None:
    async def place() -> list[httpx.Response]:
        async with client_of(example) as client:
            return [await client.post("/orders", json=ORDER), await client.post("/orders/import", json=[ORDER])]

    with recorder(example.app, fails=PublishError("no connection")):
        one, many = run(place())

    assert (one.status_code, one.headers["Retry-After"]) == (503, "5")
    assert (many.status_code, many.json()["detail"]) == (503, "0 of 1 were placed")


def test_the_application_answers_while_the_broker_is_silent(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def place(proxy: Proxy) -> int:
        async with client_of(example) as client:
            proxy.mode = "stall"
            placing = asyncio.create_task(client.post("/orders", json=ORDER))
            answered = 0
            while not placing.done():
                answered += (await client.get("/openapi.json")).status_code == 200
                await asyncio.sleep(0.01)
            assert (await placing).status_code == 503
            return answered

    url = urlsplit(server.url)
    with Proxy(url.hostname or "", url.port or 0) as proxy:
        example = load(f"redis://:{url.password}@127.0.0.1:{proxy.port}/0", monkeypatch)
        monkeypatch.setattr("choreo.broker.lines.TIMEOUT", 1.0)
        assert run(place(proxy)) > 10


def test_the_reactions_are_tested_on_a_stage(example: ModuleType) -> None:
    async def place() -> str:
        async with client_of(example) as client:
            return str((await client.post("/orders", json=ORDER)).json()["order_id"])

    with stage(example.app) as platform:
        order_id = run(place())
        platform.run()

    assert platform.announced(example.OrderConfirmed, subject=order_id).one().minutes == 30


def test_a_wrong_setting_ends_the_start(example: ModuleType) -> None:
    example.app.conf.broker_url = None

    async def start() -> None:
        async with client_of(example):
            raise AssertionError("it has started")

    with pytest.raises(Exception, match="broker_url is not set"):
        run(start())
