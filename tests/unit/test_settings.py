"""The settings of a service: which names there are, and whose value wins."""

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery.app.defaults import _TO_OLD_KEY, SETTING_KEYS

from choreo import Service
from choreo.declare.settings import SETTINGS
from choreo.errors import DeclarationError
from tests.unit.events import OrderPlaced

MEMORY = {"broker_url": "memory://", "choreo_store_url": "memory:"}


def configured(**settings: Any) -> Service:
    app = Service("payment", config=MEMORY | settings, set_as_current=False)
    app.conf.get("broker_url")
    return app


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(DeclarationError) as caught:
        act()
    return str(caught.value)


# -- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("choreo_namepsace", "choreo_namespace"),
        ("choreo_store", "choreo_store_url"),
        ("choreo_fastlane", "choreo_fast_lane"),
        ("coreo_namespace", "choreo_namespace"),
        ("choreonamespace", "choreo_namespace"),
        ("CHOREO_NAMESPACE", "choreo_namespace"),
        ("CHOREO_NAMEPSACE", "choreo_namespace"),
        ("namespace", "choreo_namespace"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_right_one(wrong, right):
    assert f"{wrong}: choreo has no such setting, did you mean {right}?" in refused(lambda: configured(**{wrong: "x"}))


def test_a_setting_of_choreo_that_does_not_exist_is_refused_with_those_that_do():
    assert f"the settings of choreo are {', '.join(SETTINGS)}." in refused(lambda: configured(choreo_x=1))


def test_a_misspelt_setting_is_refused_in_every_way_to_set_it():
    assigned = Service("payment", config=MEMORY, set_as_current=False)
    assigned.conf.choreo_namepsace = "staging"
    late = configured()
    late.conf.choreo_namepsace = "staging"
    module = ModuleType("settings")
    vars(module).update(MEMORY, choreo_namepsace="staging")
    prefixed = {"CELERY_BROKER_URL": "memory://", "CELERY_CHOREO_NAMEPSACE": "staging"}

    for app in (
        assigned,
        late,
        Service("payment", config=module, set_as_current=False),
        Service("payment", config=prefixed, namespace="CELERY", set_as_current=False),
    ):
        assert "did you mean" in refused(lambda app=app: app.publish(OrderPlaced(customer_id="a")))
    assert "did you mean choreo_namespace?" in refused(lambda: Service("payment", choreo_namepsace="staging"))


def test_other_names_in_the_users_module_are_the_users():
    configured(CHOREO_NAMESPACE="x", choreo_namespace="x")
    configured(CHOREO_HOME="/srv", choreo_helpers=logging, chorus=1, store_url="", checks=[], custom={})


@pytest.mark.parametrize("name", ["namespace", "name_space", "namespac", "choreo_name_space"])
def test_no_hint_leads_out_of_isolation(name):
    said = refused(lambda: Service("payment", config=MEMORY, **{name: "staging"}).conf.get("broker_url"))

    assert "choreo_namespace" in said


def test_settings_of_choreo_are_options_of_a_service_like_celerys():
    app = Service("payment", config=MEMORY, choreo_namespace="staging", set_as_current=False)

    assert app.runtime.topology.exchange.name == "staging.choreo.events"
    assert app.conf.control_exchange == "staging.choreo.control"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("choreo_namespace", 5),
        ("choreo_namespace", "a b"),
        ("choreo_namespace", "test.*"),
        ("choreo_store_url", 6379),
        ("choreo_unheard", "foo"),
        ("choreo_unheard", True),
        ("choreo_shutdown_timeout", "soon"),
        ("choreo_shutdown_timeout", -1),
        ("choreo_shutdown_timeout", float("nan")),
    ],
)
def test_a_value_that_cannot_work_is_refused(name, value):
    assert refused(lambda: configured(**{name: value})).startswith(f"{name} = {value!r}: it ")


def test_a_namespace_that_is_set_too_late_is_refused_and_not_ignored():
    app = configured()
    app.conf.choreo_namespace = "staging"

    assert "choreo_namespace was set to 'staging' after" in refused(
        lambda: app.publish(OrderPlaced(customer_id="alice"))
    )


# -- whose value wins -------------------------------------------------------------------------------------------

OWN = {name: value for name, value in configured().conf.maps[-2].items() if name in SETTING_KEYS}


@pytest.mark.parametrize("name", OWN)
def test_the_users_value_wins_over_choreos_default_under_each_of_its_names(name):
    mark = "mine:Mine"
    ways = [configured(**{name: mark})]
    ways.append(Service("a", config={f"CELERY_{name.upper()}": mark}, namespace="CELERY", set_as_current=False))
    ways.append(Service("a", config={f"shop_{name}": mark}, namespace="shop", set_as_current=False))
    ways.append(Service("a", config=MEMORY, set_as_current=False, **{name: mark}))
    if name in _TO_OLD_KEY and _TO_OLD_KEY[name] != name:
        ways.append(Service("a", config={_TO_OLD_KEY[name]: mark}, set_as_current=False))

    assert [app.conf[name] for app in ways] == [mark] * len(ways)


def test_without_the_users_value_choreos_default_wins_over_celerys():
    for app in (
        configured(),
        Service("payment", config={"CELERYD_CONCURRENCY": 1}, set_as_current=False),
        Service("payment", config={"CELERY_WORKER_CONCURRENCY": 1}, namespace="CELERY", set_as_current=False),
    ):
        assert {name: app.conf[name] for name in OWN} == OWN


def test_defaults_that_a_program_adds_win_over_choreos():
    app = Service("payment", config=MEMORY, set_as_current=False)
    app.add_defaults({"worker_prefetch_multiplier": 7})

    assert app.conf.worker_prefetch_multiplier == 7


def test_a_configuration_that_is_read_again_has_choreos_defaults_too():
    app = configured()

    app.config_from_object(MEMORY | {"choreo_namespace": "staging"})

    assert app.conf.worker_prefetch_multiplier == 4
    assert app.conf.task_default_queue == "staging.payment"
    assert app.runtime.topology.exchange.name == "staging.choreo.events"


# -- no broker --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        lambda app: app.publish(OrderPlaced(customer_id="a")),
        lambda app: app.publish(OrderPlaced(customer_id="a"), delay=5),
        lambda app: app.publish_many([OrderPlaced(customer_id="a")]),
        lambda app: app.joins.find(),
        lambda app: app.connection(),
        lambda app: app.connection_for_read(),
        lambda app: app.control.ping(),
    ],
)
def test_a_missing_broker_is_an_error_and_not_localhost(act):
    app = Service("payment", config=None, set_as_current=False)

    assert "payment has no broker: broker_url is not set." in refused(lambda: act(app))


def test_the_error_says_that_there_is_no_celeryconfig_on_the_path(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    app = Service("payment", set_as_current=False)

    assert "There is no module celeryconfig on the path. Write broker_url" in refused(lambda: app.publisher)


# -- results ----------------------------------------------------------------------------------------------------


def test_an_ordinary_task_keeps_its_result_and_a_handler_does_not():
    app = configured(result_backend="cache+memory://")

    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    assert app.tasks[add.name].ignore_result is False
    assert app.tasks["payment.charge"].ignore_result is True
    assert app.tasks["payment.dead_letters"].ignore_result is True


PLACES = {
    "broker_url": "amqp://me:hunter2@a//",
    "broker_read_url": ["redis://:hunter2@a/0", "redis://:hunter2@b/0"],
    "choreo_store_url": "sentinel://:hunter2@a:26379;sentinel://:hunter2@b:26379/0?password=hunter2",
    "broker_transport_options": {"sentinel_kwargs": {"password": "hunter2"}},
    "result_backend": "redis://:hunter2@c/0",
}


@pytest.mark.parametrize("prefix", [None, "SHOP", "shop"])
def test_where_settings_are_shown_no_url_has_its_password(prefix: str | None) -> None:
    form = {None: "{}", "SHOP": "SHOP_{}", "shop": "shop_{}"}[prefix].format
    places = {form(name.upper() if prefix == "SHOP" else name): value for name, value in PLACES.items()}
    app = Service("payment", config=places, namespace=prefix, set_as_current=False)

    shown = [app.conf.humanize(), str(app.conf.table()), str(app.conf.table(with_defaults=True)), app.bugreport()]

    assert [text for text in shown if "hunter2" in text] == []
    assert all("sentinel://:**@a:26379;sentinel://:**@b:26379/0" in text for text in shown)
    assert app.conf.broker_url == "amqp://me:hunter2@a//"
    assert "hunter2" in str(app.conf.table(censored=False))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import os\nbroker_url = os.environ['NO_SUCH_URL']", r"the environment variable 'NO_SUCH_URL' is not set"),
        ("broker_url = {}['redis']", r"KeyError: 'redis'"),
        ("\nbroker_url = redis", r"NameError: name 'redis' is not defined"),
        ("import os\nbroker_url = os.nothing", r"AttributeError: module 'os' has no attribute 'nothing'"),
    ],
)
def test_a_configuration_that_raises_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, fault: str
) -> None:
    (tmp_path / "settings_of_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "settings_of_a_test", raising=False)
    importlib.invalidate_caches()
    app = Service("payment", config="settings_of_a_test", set_as_current=False)

    line = len(source.splitlines())
    with pytest.raises(DeclarationError, match=rf"^settings_of_a_test cannot be read: {fault} \(.*:{line}\)$"):
        assert app.conf.task_queues
