"""`choreo web` as a process, beside a real worker and a real store that comes and goes."""

import asyncio
import base64
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from choreo import Service
from choreo.local.server import EmbeddedServer
from choreo.web import server
from choreo.web.site import Site
from tests.chaos.proxy import Proxy
from tests.ending import with_this_process
from tests.integration.orders import OrderPlaced
from tests.integration.workers import ROOT, Payment
from tests.waiting import DEADLINE, eventually

HANDLER = "payment.charge_customer"


def ask(url: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextmanager
def pages(log: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """Serve the pages on a free port. Yields their address. They end on Ctrl-C, with the exit code 0."""
    with log.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "choreo", "web", "--port", "0", *arguments],
            cwd=ROOT,
            stdout=told,
            stderr=subprocess.STDOUT,
            preexec_fn=with_this_process,
            env=os.environ | {"PYTHONUNBUFFERED": "1", **environment},
        )
    try:
        eventually(lambda: process.poll() is not None or "http://" in log.read_text(), reason="the address is told")
        found = re.search(r"http://[^/ ]+", log.read_text())
        assert found, log.read_text()
        yield found[0]
    finally:
        process.send_signal(2)
        code = process.wait(DEADLINE)
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture(params=["redis_url", "rabbitmq_url"])
def payment(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    payment = Payment(request.getfixturevalue(request.param), redis_url, namespace, tmp_path)
    yield payment
    payment.close()


def test_the_pages_show_a_platform_and_pause_a_handler(payment: Payment, tmp_path: Path) -> None:
    places = {"CHOREO_BROKER_URL": payment.broker, "CHOREO_STORE_URL": payment.settings["choreo_store_url"]}
    places["CHOREO_NAMESPACE"] = payment.namespace
    with payment.worker("--pool", "solo") as worker, pages(tmp_path / "web.log", **places) as url:
        eventually(lambda: HANDLER in ask(f"{url}/flow")[1], reason="the handler is shown")
        status, drawn = ask(f"{url}/map")
        assert status == 200
        assert "<svg class=" in drawn
        assert HANDLER in drawn
        worker.stop()
        for number in range(3):
            payment.app.publish(OrderPlaced(number=number), subject=f"ORD-{number}")
        eventually(lambda: "no worker of payment lives" in ask(f"{url}/flow")[1], reason="the trouble is shown")
        assert "ORD-0" in ask(f"{url}/flow/{HANDLER}")[1] or payment.broker.startswith("amqp")

        payment.app.pauses.pause(HANDLER, reason="a test")
        eventually(lambda: "a test" in ask(f"{url}/flow")[1], reason="the pause is shown")
    password = re.search(r"://[^:]*:([^@]+)@", payment.settings["choreo_store_url"])
    assert password is None or password[1] not in drawn


def test_a_store_that_goes_away_is_told_and_the_pages_come_back(tmp_path: Path) -> None:
    with EmbeddedServer(persistent=True) as server, pages(tmp_path / "web.log", "--broker", server.url) as url:
        assert ask(f"{url}/flow")[0] == 200
        server.kill()
        status, told = ask(f"{url}/map")
        assert status == 503
        assert "The store does not answer" in told
        assert server.url.split(":")[2].split("@")[0] not in told, "the password"
        eventually(lambda: "The last look succeeded" in ask(f"{url}/flow")[1], reason="the state is called old")

        server.restart()

        eventually(lambda: ask(f"{url}/map")[0] == 200, reason="the map is back")
        eventually(lambda: "The last look succeeded" not in ask(f"{url}/flow")[1], reason="the flow is fresh")


def test_a_page_that_waits_for_the_store_holds_up_no_other(tmp_path: Path) -> None:
    with EmbeddedServer() as server, Proxy("127.0.0.1", server.port) as proxy:
        place = server.url.replace(str(server.port), str(proxy.port))
        with pages(tmp_path / "web.log", "--broker", place) as url:
            assert ask(f"{url}/flow")[0] == 200
            proxy.mode = "stall"
            slow = [threading.Thread(target=ask, args=[f"{url}/map"]) for _ in range(4)]
            for one in slow:
                one.start()
            begun = time.monotonic()
            assert ask(f"{url}/flow")[0] == 200
            assert ask(f"{url}/static/choreo.css")[0] == 200
            assert time.monotonic() - begun < 5
            assert any(one.is_alive() for one in slow), "they wait for the store"
            proxy.mode = "ok"
            for one in slow:
                one.join(DEADLINE)


def test_others_are_asked_for_the_password(tmp_path: Path, redis_url: str, namespace: str) -> None:
    where = ["--broker", redis_url, "--namespace", namespace, "--host", "0.0.0.0"]
    with pages(tmp_path / "web.log", *where, CHOREO_WEB_PASSWORD="sesame") as url:
        assert ask(f"{url}/flow")[0] == 401
        login = {"Authorization": f"Basic {base64.b64encode(b'me:sesame').decode()}"}
        assert ask(f"{url}/flow", login)[0] == 200
        assert ask(f"{url}/flow", login | {"Host": "evil.example"})[0] == 403
    assert "sesame" not in (tmp_path / "web.log").read_text()


def test_a_client_that_never_ends_its_request_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_IDLE", 0.2)
    monkeypatch.setattr(server, "MOST_SENDING", 0.2)
    app = Service("payment", config=None, broker="memory://", set_as_current=False)
    app.conf.choreo_store_url = "memory:"

    async def sent(port: int, text: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        try:
            return await asyncio.wait_for(reader.read(), DEADLINE)
        finally:
            writer.close()

    async def all_sent() -> list[bytes]:
        port = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(server.serve(Site(app), "127.0.0.1", 0, port.set_result))
        begun = b"POST /flow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\nx"
        try:
            return [await sent(await port, text) for text in (b"", b"GET / HT", begun)]
        finally:
            serving.cancel()

    assert asyncio.run(all_sent()) == [b"", b"", b""]
