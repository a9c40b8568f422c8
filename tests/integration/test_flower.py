"""What a person sees in Flower, asked through its HTTP API: each handler's work, under its own name."""

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from choreo import Envelope, Service
from choreo.local import Platform
from choreo.local.server import free_port
from choreo.web import pages
from handlers.events import OrderPlaced
from tests.ending import with_this_process
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
LOGIN = "me:secret"
TABS = [f"/choreo{page.paths[0]}" for page in pages.TABS]
COURIER = """
    from choreo import Context, Envelope, PermanentFailure, Retry, RetryLater, Service

    app = Service("courier", task_send_sent_event=True)

    @app.on("order.placed")
    def deliver(order: Envelope) -> None:
        raise RetryLater(600)

    @app.on("order.placed", retry=Retry(times=5, first=0.1))
    def ring_bell(order: Envelope, context: Context) -> None:
        if context.attempt < 3:
            raise OSError("nobody opens")

    @app.on("order.placed")
    def collect_tip(order: Envelope) -> None:
        raise PermanentFailure("never heard of it")
"""


class Flower:
    """A running Flower, and the platform that it watches."""

    def __init__(self, url: str, broker_url: str) -> None:
        self.url, self.broker_url = url, broker_url
        self._guest = Service("guest", config=None)
        self._guest.conf.broker_url = broker_url
        self.password = urlsplit(broker_url).password

    def place_order(self, subject: str) -> Envelope:
        order = OrderPlaced(customer_id="alice", restaurant_id="pizza-place", items=["soup"], total_cents=2500)
        return self._guest.publish(order, subject)

    def get(self, path: str, login: str | None = LOGIN, host: str = "") -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, headers={"Host": host} if host else {})
        if login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        status, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def row(self, handler: str, about: str, state: str) -> dict[str, Any]:
        """The one row of this handler about this, once it is in this state."""

        def rows() -> list[dict[str, Any]]:
            tasks = self.json(f"/api/tasks?limit=1000&taskname={handler}").values()
            return [task for task in tasks if task["args"] == about]

        eventually(lambda: [task["state"] for task in rows()] == [state], reason=f"{handler}({about}) is {state}")
        (row,) = rows()
        return row

    def count(self, handler: str, event: str) -> float:
        """How many worker events of a kind there were about a handler, in the metrics for Prometheus."""
        wanted = (f'task="{handler}"', f'type="{event}"')
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith("flower_events_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in wanted))

    def workers(self) -> dict[str, Any]:
        """What the list of workers shows, by node name."""
        return {worker["hostname"]: worker for worker in self.json("/workers?json=1")["data"]}


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """Flower beside workers of two reference services, and of one that the package it was started with has not."""
    data = tmp_path_factory.mktemp("data")
    package = f"couriers_{uuid4().hex[:8]}"
    (data / f"{package}.py").write_text(dedent(COURIER))
    environment = {"CHOREO_DATA": str(data), "FLOWER_BASIC_AUTH": LOGIN}
    with pytest.MonkeyPatch.context() as patch, Platform("handlers", environment=environment) as platform:
        # Flower reads flowerconfig.py in the directory where it starts.
        patch.chdir(ROOT)
        patch.syspath_prepend(data)
        platform.start("payment", "loyalty")
        with Platform(package, broker_url=platform.broker_url) as stranger:
            stranger.start()
            platform.wait_ready()
            stranger.wait_ready()
            # A service whose workers are all down.
            ghost = Service("ghost", config=None, broker=platform.broker_url, set_as_current=False)
            ghost.on("order.placed", name="haunt")(_haunt)
            ghost.runtime.introduce()
            flower = Flower(platform.start_flower(), platform.broker_url)
            # Flower listens to worker events when it has heard a heartbeat of each; what came before, it has missed.
            eventually(lambda: len(flower.workers()) == 3, reason="Flower has heard of all workers")
            yield flower


def _haunt(order: Envelope) -> None: ...


def test_each_handler_of_an_event_has_a_row_of_its_own(flower: Flower) -> None:
    flower.place_order("ORD-1")

    charge = flower.row("payment.charge_customer", "order.placed ORD-1", "SUCCESS")
    award = flower.row("loyalty.award_points", "payment.charged ORD-1", "SUCCESS")

    assert charge["worker"].startswith("payment@")
    assert award["worker"].startswith("loyalty@")
    assert charge["result"] == "'announced payment.charged ORD-1'"
    assert charge["retries"] == 0


def test_a_run_is_the_child_of_the_run_that_announced_its_event(flower: Flower) -> None:
    flower.place_order("ORD-7")

    charge = flower.row("payment.charge_customer", "order.placed ORD-7", "SUCCESS")
    award = flower.row("loyalty.award_points", "payment.charged ORD-7", "SUCCESS")

    assert charge["parent_id"] is None
    assert award["parent_id"] == award["root_id"] == charge["root_id"] == charge["uuid"]
    # The links of the page lead somewhere.
    assert f"/task/{charge['uuid']}" in flower.get(f"/task/{award['uuid']}")[1]
    status, page = flower.get(f"/task/{charge['uuid']}")
    assert status == 200
    assert f"/task/{award['uuid']}" in page


def test_a_run_stays_the_child_through_retries_and_so_does_its_dead_letter(flower: Flower) -> None:
    flower.place_order("ORD-8")

    ring = flower.row("courier.ring_bell", "order.placed ORD-8", "SUCCESS")
    failure = flower.row("courier.collect_tip", "order.placed ORD-8", "FAILURE")
    letter = flower.row("courier.dead_letters", "courier.collect_tip: order.placed ORD-8", "SUCCESS")

    assert (ring["root_id"], ring["parent_id"]) == (ring["uuid"], None)
    assert letter["parent_id"] == letter["root_id"] == failure["uuid"]


def test_the_parent_and_the_root_of_every_run_lead_somewhere(flower: Flower) -> None:
    flower.place_order("ORD-11")
    flower.row("loyalty.award_points", "payment.charged ORD-11", "SUCCESS")
    flower.row("courier.dead_letters", "courier.collect_tip: order.placed ORD-11", "SUCCESS")

    rows = flower.json("/api/tasks?limit=1000")

    led = {row[key] for row in rows.values() for key in ("parent_id", "root_id") if row[key]}
    assert led
    assert led <= set(rows)
    assert {flower.get(f"/task/{uuid}")[0] for uuid in led} == {200}


@pytest.mark.parametrize("path", TABS)
def test_each_page_of_choreo_is_a_tab(flower: Flower, path: str) -> None:
    assert f'href="{path}"' in flower.get("/tasks")[1]

    status, page = flower.get(path)

    assert status == 200, page
    assert 'href="/broker"' in page


def test_the_flow_shows_every_service_also_one_that_is_down(flower: Flower) -> None:
    page = flower.get("/choreo/flow")[1]

    assert "payment.charge_customer" in page
    assert "ghost.haunt" in page


def test_the_pages_work_behind_a_prefix_and_a_login(flower: Flower, tmp_path: Path) -> None:
    port = free_port()
    log = (tmp_path / "flower.log").open("w")
    options = ["--address=127.0.0.1", f"--port={port}", "--url_prefix=ops", f"--basic_auth={LOGIN}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "handlers.payment", "flower", *options],
        cwd=ROOT,
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=with_this_process,
        env=os.environ | {"CHOREO_BROKER_URL": flower.broker_url, "CHOREO_DATA": str(tmp_path)},
    )
    try:
        behind = Flower(f"http://127.0.0.1:{port}", flower.broker_url)

        def shown() -> bool:
            with suppress(urllib.error.URLError):
                return behind.get("/ops/choreo/flow")[0] == 200
            return False

        eventually(shown, reason="the page is served")
        for path in TABS:
            assert behind.get(f"/ops{path}", login=None)[0] == 401
            status, page = behind.get(f"/ops{path}")
            assert status == 200, page
            assert not re.findall(r'(?:href|src|action)="/choreo', page)
        assert 'href="/ops/choreo/map"' in behind.get("/ops/tasks")[1]
        assert behind.get("/ops/choreo/static/choreo.css")[0] == 200
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def test_an_exporter_learns_the_queues_of_a_service_that_asks_for_it(flower: Flower) -> None:
    flower.place_order("ORD-9")
    flower.row("courier.collect_tip", "order.placed ORD-9", "FAILURE")

    eventually(lambda: flower.count("courier.collect_tip", "task-sent"), reason="its task-sent is counted")
    assert flower.count("payment.charge_customer", "task-sent") == 0


def test_two_services_that_hear_the_same_event_have_two_rows(flower: Flower) -> None:
    flower.place_order("ORD-2")

    charge = flower.row("payment.charge_customer", "order.placed ORD-2", "SUCCESS")
    deliver = flower.row("courier.deliver", "order.placed ORD-2", "RETRY")

    assert charge["uuid"] != deliver["uuid"]
    assert deliver["worker"].startswith("courier@")


def test_a_handler_that_will_be_tried_again_is_shown_as_a_retry(flower: Flower) -> None:
    flower.place_order("ORD-3")

    deliver = flower.row("courier.deliver", "order.placed ORD-3", "RETRY")

    assert deliver["retried"] is not None
    assert "asked to be called again in 600 s" in deliver["exception"]


def test_a_success_after_retries_says_how_many_there_were(flower: Flower) -> None:
    flower.place_order("ORD-4")

    ring = flower.row("courier.ring_bell", "order.placed ORD-4", "SUCCESS")

    assert ring["retries"] == 2
    assert ring["retried"] is not None
    assert flower.count("courier.ring_bell", "task-retried") >= 2


def test_a_failure_is_shown_as_one_and_the_dead_letter_has_a_row_too(flower: Flower) -> None:
    flower.place_order("ORD-6")

    failure = flower.row("courier.collect_tip", "order.placed ORD-6", "FAILURE")
    letter = flower.row("courier.dead_letters", "courier.collect_tip: order.placed ORD-6", "SUCCESS")

    assert failure["exception"] == "PermanentFailure('never heard of it')"
    assert "in collect_tip" in failure["traceback"]
    assert letter["worker"] == failure["worker"]


def test_the_workers_of_all_services_are_listed(flower: Flower) -> None:
    workers = flower.workers()

    assert {name.partition("@")[0] for name in workers} == {"payment", "loyalty", "courier"}
    assert all(worker["status"] for worker in workers.values())


def test_the_list_of_tasks_shows_what_each_is_about(flower: Flower) -> None:
    _, page = flower.get("/tasks")

    columns = re.findall(r'<th data-column="(\w+)"', page)
    assert columns[:4] == ["name", "args", "state", "uuid"], "a window of 1280 pixels shows no more than these"


def test_the_page_of_each_worker_opens(flower: Flower) -> None:
    for name in flower.workers():
        status, page = flower.get(f"/worker/{name}")
        assert status == 200, page
        assert name in page


def test_the_page_of_the_broker_lists_the_queues_also_of_a_service_that_is_down(flower: Flower) -> None:
    status, page = flower.get("/broker")

    assert status == 200, page
    assert "payment.charge_customer" in page
    assert "ghost.haunt" in page
    assert "ghost.haunt" in [queue["name"] for queue in flower.json("/api/queues/length")["active_queues"]]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "[::2]:{port}"])
@pytest.mark.parametrize(
    "path", ["/", "/broker", "/api/workers", "/static/css/flower.css", "/healthcheck", "/choreo/map"]
)
def test_a_foreign_host_is_refused(flower: Flower, host: str, path: str) -> None:
    port = flower.url.rpartition(":")[2]

    assert flower.get(path, host=host.format(port=port))[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:{port}", "127.0.0.1:{port}", "[::1]:{port}"])
def test_this_machine_has_several_names(flower: Flower, host: str) -> None:
    assert flower.get("/workers", host=host.format(port=flower.url.rpartition(":")[2]))[0] == 200


def test_no_page_shows_the_password_of_the_broker(flower: Flower) -> None:
    paths = ["/", "/workers", "/tasks", "/broker", "/metrics", "/api/workers?refresh=1", "/api/tasks", *TABS]
    paths += [f"/worker/{name}" for name in flower.workers()]

    pages = [flower.get(path)[1] for path in paths]

    assert flower.password
    assert not [path for path, page in zip(paths, pages, strict=True) if flower.password in page]


@pytest.mark.parametrize("path", ["/", "/tasks", "/workers", "/broker", "/api/tasks", "/api/workers", *TABS])
def test_nobody_gets_in_without_the_password(flower: Flower, path: str) -> None:
    assert flower.get(path, login=None)[0] == 401
    assert flower.get(path, login="me:guess")[0] == 401


def test_whoever_knows_the_password_gets_in(flower: Flower) -> None:
    for path in ("/", "/tasks", "/workers", "/api/tasks", "/api/workers"):
        assert flower.get(path)[0] == 200
