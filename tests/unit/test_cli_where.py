"""`-A` and `--namespace`: a command takes broker, store and namespace from where a service has them."""

import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from choreo import Service
from choreo.cli import choreo
from choreo.cli.app import command_line_service
from choreo.cli.where import Where, services
from choreo.errors import DeclarationError
from tests.commands import environment, run  # noqa: F401 - the fixture is for every test here

PAYMENT = """
    from datetime import timedelta
    from choreo import Envelope, Service, Terms

    app = Service(
        "payment",
        config=None,
        broker="rediss://:secret@broker/1",
        broker_use_ssl={"ssl_ca_certs": "ca.pem"},
        broker_transport_options={"global_keyprefix": "shop:"},
        choreo_store_url="memory:",
        choreo_namespace="staging",
        terms=Terms(retention=timedelta(days=30)),
    )

    @app.on("order.#")
    def charge(event: Envelope) -> None: ...
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes modules of a package `shop_w` of this test's own, in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop_w").mkdir()
    (tmp_path / "shop_w" / "__init__.py").touch()

    def write(**modules: str) -> None:
        for name, text in modules.items():
            (tmp_path / "shop_w" / f"{name}.py").write_text(textwrap.dedent(text))

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop_w"]:
        del sys.modules[name]


def test_a_command_has_the_whole_configuration_of_the_service(shop):
    shop(payment=PAYMENT)

    app = command_line_service(Where(app="shop_w.payment"))

    assert app.service_name == "command_line"
    assert app.conf.broker_url == app.conf.broker_write_url == "rediss://:secret@broker/1"
    assert app.conf.broker_use_ssl == {"ssl_ca_certs": "ca.pem"}
    assert app.conf.broker_transport_options == {"global_keyprefix": "shop:"}
    assert app.runtime.queue_of("payment.charge") == "staging.payment.charge"
    assert app.runtime.terms.retention == timedelta(days=30)
    assert app.subscriptions == []


@pytest.mark.parametrize(
    "target", ["shop_w.payment", "shop_w.payment:app", "shop_w.celery", "shop_w", "shop_w.celery:other"]
)
def test_the_service_is_named_as_for_celery(shop, target):
    shop(payment=PAYMENT, celery="from shop_w.payment import app\nother = app")

    assert command_line_service(Where(app=target)).conf.choreo_namespace == "staging"


def test_options_go_before_the_service_and_variables_do_not(shop, monkeypatch):
    shop(payment=PAYMENT)
    monkeypatch.setenv("CHOREO_BROKER_URL", "redis://elsewhere")
    monkeypatch.setenv("CHOREO_NAMESPACE", "elsewhere")
    context = click.Context(choreo)

    monkeypatch.setenv("CHOREO_APP", "shop_w.payment")
    app = command_line_service(Where.of(context))
    assert (app.conf.broker_url, app.conf.choreo_namespace) == ("rediss://:secret@broker/1", "staging")

    context.meta.update({"choreo.where.broker": "redis://a", "choreo.where.namespace": ""})
    app = command_line_service(Where.of(context))
    assert (app.conf.broker_url, app.conf.broker_read_url) == ("redis://a", "redis://a")
    assert app.runtime.queue_of("payment.charge") == "payment.charge"


def test_a_namespace_is_taken_from_the_option_and_from_the_variable(monkeypatch):
    context = click.Context(choreo)
    monkeypatch.setenv("CHOREO_NAMESPACE", "staging")
    assert command_line_service(Where.of(context)).runtime.queue_of("payment") == "staging.payment"

    context.meta["choreo.where.namespace"] = "test"
    assert command_line_service(Where.of(context)).runtime.queue_of("payment") == "test.payment"


def test_every_command_takes_the_options_before_and_behind(shop):
    shop(payment=PAYMENT)

    for command in (["schedule"], ["joins", "list"], ["dead-letters", "list"]):
        run("-A", "shop_w.payment", *command, code=0)
        run(*command, "--app", "shop_w.payment", "--namespace", "test", code=0)


def test_what_the_module_prints_goes_to_stderr(shop):
    shop(payment=PAYMENT + "\n    print('hello')")

    result = run("-A", "shop_w.payment", "schedule", "--json", code=0)

    assert (result.stdout, result.stderr) == ("", "hello\n")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "shop_w.paymnt",
            "there is no module shop_w.paymnt. Run the command in the directory that holds it. Try shop_w",
        ),
        ("nosuch.payment", "there is no module nosuch. Run the command in the directory that holds it. Try shop_w."),
        ("shop_w.payment:ap", "shop_w.payment has no ap. Try shop_w.payment."),
        ("shop_w.payment:charge", "it is a function, and no choreo.Service. Try shop_w.payment."),
        ("shop_w", "shop_w makes no service. Try shop_w.payment."),
        ("shop_w.events", "shop_w.events makes no service. Try shop_w.payment."),
        ("shop_w.plain", "it is a Celery app, and no choreo.Service. Try shop_w.payment."),
        ("shop_w.broken", "shop_w.broken cannot be imported: KeyError: 'PRICES' ("),
        ("shop_w.lacking", "shop_w.lacking cannot be imported: ModuleNotFoundError: No module named 'stripes' ("),
        ("shop_w.typo", "shop_w.typo cannot be imported: AttributeError: module 'os' has no attribute 'patth' ("),
    ],
)
def test_a_service_that_cannot_be_found_is_one_line_with_the_way_out(shop, target, said):
    shop(
        payment=PAYMENT,
        events="class OrderPlaced: ...",
        plain="from celery import Celery\napp = Celery('plain')",
        broken="PRICES = {}['PRICES']",
        lacking="import stripes",
        typo="import os\nos.patth",
    )

    result = run("-A", target, "schedule", code=2)

    assert f"Error: -A {target}: {said}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_service_without_a_broker_says_where_to_set_it(shop):
    shop(payment="import choreo\napp = choreo.Service('payment', config=None)")

    said = run("-A", "shop_w.payment", "schedule", code=1).stderr

    assert "shop_w.payment has no broker: its configuration does not set broker_url. Set it there," in said
    assert said.count("\n") == 1


def test_a_configuration_that_cannot_be_read_is_one_line(shop):
    shop(payment="import choreo\napp = choreo.Service('payment', config='nosuch_w')")

    said = run("-A", "shop_w.payment", "schedule", code=1).stderr

    assert "the configuration of shop_w.payment cannot be read: No module named 'nosuch_w'." in said
    assert said.count("\n") == 1


def test_an_error_of_the_store_names_the_configuration_to_correct(shop):
    shop(payment="import choreo\napp = choreo.Service('payment', config=None, broker='redis://127.0.0.1:1')")

    said = run("-A", "shop_w.payment", "schedule", code=1).stderr

    assert "Start it, or correct --broker / the configuration of shop_w.payment, or --store / the config" in said


@pytest.mark.parametrize("name", ["two words", "a*", "#"])
def test_a_namespace_that_cannot_work_is_refused(name):
    said = run("schedule", "--namespace", name, code=2).stderr
    assert f"Invalid value for --namespace / CHOREO_NAMESPACE: {name!r} cannot begin the name of a queue" in said


def test_choreo_up_refuses_an_app():
    assert "choreo up runs all services of a package" in run("-A", "shop.payment", "up", "shop", code=2).stderr


def test_services_are_completed_from_the_source(shop):
    shop(payment=PAYMENT, broken="PRICES = {}['PRICES']")

    assert services(None, None, "shop_w.p") == ["shop_w.payment"]
    assert services(None, None, "x") == []


def test_a_wrong_setting_of_the_service_is_an_error_of_its_own(shop):
    shop(payment="import choreo\napp = choreo.Service('payment', config=None, choreo_unheard='erorr')")

    with pytest.raises(DeclarationError, match="choreo_unheard = 'erorr'"):
        command_line_service(Where(app="shop_w.payment"))


def test_a_service_of_ones_own_class_is_a_service(shop):
    shop(
        payment="import choreo\nclass Mine(choreo.Service): ...\napp = Mine('payment', config=None, broker='redis://a')"
    )

    assert isinstance(command_line_service(Where(app="shop_w.payment")), Service)
