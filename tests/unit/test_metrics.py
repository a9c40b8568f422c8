"""`choreo metrics`: what waits and what failed, as Prometheus reads it; and the dashboard that shows it."""

import json
import re
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from choreo import PermanentFailure, Service
from choreo.broker.depths import Depth
from choreo.cli.metrics import metrics
from choreo.errors import StoreError
from choreo.observe.prometheus import COUNTERS, GAUGES
from choreo.testing import Stage, stage
from choreo.testing.runtime import StageQueues
from tests.unit.events import DriverAssigned, OrderConfirmed, OrderPlaced, PaymentCharged
from tests.unit.stage import service

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "choreo.json").read_text())
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def app() -> Service:
    """What the command asks."""
    return service("command_line")


@pytest.fixture
def platform(app: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    driver = service("driver")

    @driver.join(OrderConfirmed, PaymentCharged, within=timedelta(minutes=30))
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    @driver.on(OrderPlaced)
    def note(order: OrderPlaced) -> None:
        raise PermanentFailure("no")

    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
    with stage(app, driver, start=NOON) as platform:
        yield platform


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(metrics, [*arguments])
    assert result.exit_code == code, result.output
    return result


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(name, label value, ...) → value."""
    families = text_string_to_metric_families(text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_it_tells_what_waits_and_what_failed(platform: Stage) -> None:
    platform.publish(OrderPlaced(customer_id="alice"), "ORD-1")
    for number in (1, 2):
        platform.publish(OrderConfirmed(), f"ORD-{number}")
    platform.publish(OrderConfirmed(), "ORD-1")
    platform.publish(PaymentCharged(), "ORD-3", delay=60)
    platform.run()

    found = samples(run().stdout)

    assert found["choreo_up", "store"] == found["choreo_up", "broker"] == 1
    assert found["choreo_workers", "driver"] == 1
    assert found["choreo_dead_letters", "driver.note", "driver"] == 1
    assert found["choreo_pending_joins", "driver.assign", "driver"] == 2
    assert found["choreo_overdue_joins", "driver.assign", "driver"] == 0
    assert found["choreo_schedule_later_messages", "driver.assign", "driver"] == 2
    assert found["choreo_schedule_later_messages", "delayed", ""] == 1
    assert found["choreo_ignored_join_events_total", "driver.assign", "surplus", "driver"] == 1
    assert ("choreo_pending_joins", "driver.note", "driver") not in found, "it is no join"


def test_it_tells_how_many_stories_are_overdue_and_how_they_ended(
    app: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = service("shop")
    shop.story("delivery", begins=OrderPlaced, ends=DriverAssigned, within=timedelta(minutes=30))
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
    with stage(app, shop, start=NOON) as platform:
        for number in (1, 2, 3):
            platform.publish(OrderPlaced(customer_id="alice"), f"ORD-{number}")
            platform.advance(minutes=20)
        platform.publish(DriverAssigned(), "ORD-2")
        platform.run()
        found = samples(run().stdout)

    assert found["choreo_pending_stories", "shop.delivery", "shop"] == 2
    assert found["choreo_overdue_stories", "shop.delivery", "shop"] == 1
    courses = {key[1]: value for key, value in found.items() if key[0] == "choreo_stories_total"}
    assert courses == {"ended_in_time": 0, "ended_late": 1, "overdue": 2, "abandoned": 0, "unbegun": 0}
    assert not [key for key in found if "join" in key[0]], "to the store it is a join, and to nobody else"


def test_it_tells_what_waits_in_queues_and_since_when(
    platform: Stage, app: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths = {"driver.note": Depth(7, (NOON - timedelta(seconds=90)).timestamp()), "driver.assign": Depth(0)}
    monkeypatch.setattr(StageQueues, "look", lambda *_: depths)

    found = samples(run().stdout)

    assert found["choreo_waiting_messages", "driver.note", "driver"] == 7
    assert found["choreo_oldest_waiting_seconds", "driver.note", "driver"] == 90
    assert found["choreo_waiting_messages", "driver.assign", "driver"] == 0
    assert ("choreo_oldest_waiting_seconds", "driver.assign", "driver") not in found
    assert ("choreo_waiting_messages", "driver", "driver") not in found, "there is no such queue"


def test_it_tells_which_handlers_are_paused_or_slowed_down(platform: Stage, app: Service) -> None:
    app.pauses.pause("driver.note")
    app.pauses.pause("driver.assign", rate=0.5)

    found = samples(run().stdout)

    assert found["choreo_handler_paused", "driver.note", "driver"] == 1
    assert found["choreo_handler_paused", "driver.assign", "driver"] == 0
    assert found["choreo_handler_rate_limit", "driver.assign", "driver"] == 0.5
    assert ("choreo_handler_rate_limit", "driver.note", "driver") not in found
    assert ("choreo_handler_paused", "driver", "driver") not in found, "it is no handler"


def test_a_service_that_only_announces_lacks_no_worker(platform: Stage, app: Service) -> None:
    app.runtime.store.register(["web"])

    found = samples(run().stdout)

    assert found["choreo_workers", "driver"] == 1
    assert ("choreo_workers", "web") not in found


def test_it_tells_of_events_that_nobody_hears(platform: Stage, app: Service) -> None:
    app.runtime.store.note_unheard("shop", {"orders.placed": 3})

    assert samples(run().stdout)["choreo_unheard_events_total", "orders.placed"] == 3


def test_it_tells_of_the_servers_of_the_store(platform: Stage, app: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"used_memory": 10, "maxmemory": 20, "maxmemory_policy": "allkeys-lru", "evicted_keys": 3, "aof_enabled": 1}
    servers = {"redis://me:secret@one:6379/0?x=1": info, "two:6379": {"used_memory": "5", "maxmemory": 0}}
    monkeypatch.setattr(app.runtime.store, "servers", lambda: servers)

    found = {key: value for key, value in samples(run().stdout).items() if key[0].startswith("choreo_store")}

    assert found == {
        ("choreo_store_memory_bytes", "one:6379/0"): 10,
        ("choreo_store_memory_limit_bytes", "one:6379/0"): 20,
        ("choreo_store_evicting", "one:6379/0"): 1,
        ("choreo_store_persistent", "one:6379/0"): 1,
        ("choreo_store_evicted_keys_total", "one:6379/0"): 3,
        ("choreo_store_memory_bytes", "two:6379"): 5,
        ("choreo_store_evicted_keys_total", "two:6379"): 0,
    }


def test_a_broker_that_is_away_hides_nothing_else(
    platform: Stage, app: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OSError("away")

    monkeypatch.setattr(StageQueues, "look", away)

    found = samples(run().stdout)

    assert (found["choreo_up", "store"], found["choreo_up", "broker"]) == (1, 0)
    assert found["choreo_workers", "driver"] == 1


def test_a_store_that_goes_away_is_a_metric_and_no_error_of_the_scrape(
    platform: Stage, app: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise StoreError("away")

    monkeypatch.setattr(app.runtime.store, "handlers", away)

    found = samples(run().stdout)

    assert found.pop(("choreo_scrape_seconds",)) > 0
    assert found == {("choreo_up", "store"): 0}


def test_a_store_that_is_away_from_the_beginning_is_an_error_of_the_command(
    platform: Stage, app: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise StoreError("the call failed")

    monkeypatch.setattr(app.runtime.store, "ping", away)

    assert "The store is" in run(code=1).output


def test_a_port_that_is_taken_is_named_with_the_way_out(platform: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        output = run("--port", port, code=1).output

    assert f"127.0.0.1:{port}: " in output
    assert "Name another one: --port, --host." in output


def test_without_the_package_the_way_out_is_named(platform: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    assert "pip install 'celery-choreo[metrics]'" in run(code=1).output


# -- the dashboard ----------------------------------------------------------------------------------------------


def queries() -> list[str]:
    variables = [variable["definition"] for variable in DASHBOARD["templating"]["list"] if "definition" in variable]
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]] + variables


def test_the_dashboard_asks_for_every_metric_and_for_no_other() -> None:
    used = {name for query in queries() for name in re.findall(r"\bchoreo_\w+", query)}

    assert used == {*GAUGES, *COUNTERS}


def test_the_page_tells_of_every_metric() -> None:
    page = (ROOT / "docs" / "observability.md").read_text().partition("## Metrics")[2]
    told = {name for line in page.splitlines() if line[:4] == "| `c" for name in re.findall(r"choreo_\w+", line)}

    assert told == {*GAUGES, *COUNTERS}


def test_counters_are_named_as_counters() -> None:
    assert all(name.endswith("_total") for name in COUNTERS)
    assert not any(name.endswith("_total") for name in GAUGES)


def test_the_panels_of_the_dashboard_lie_beside_each_other() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & own, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own

    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_dashboard_works_with_any_prometheus() -> None:
    sources = {json.dumps(panel["datasource"]) for panel in DASHBOARD["panels"]}

    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    for query in queries():
        assert query.count("(") == query.count(")")
        assert query.count("{") == query.count("}")
