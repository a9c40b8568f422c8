"""No password stands where people look: in reports, in remote control's answers, in errors and in the log."""

import json
import traceback
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state
from celery.worker.control import conf as inspect_conf
from celery.worker.worker import WorkController

from choreo import Service
from choreo.errors import DeclarationError, StoreError
from choreo.masking import MASK, masked, without_passwords
from choreo.redis_client.client import make_client
from choreo.worker.node import ServiceWorker

SETTINGS: dict[str, dict[str, Any]] = {
    "redis": {"broker_url": "redis://u:s3cr3t%2Fx@127.0.0.1:1/0"},
    "rediss": {"broker_url": "rediss://:s3cr3t@127.0.0.1:1/0?ssl_cert_reqs=none&ssl_password=s3cr3t"},
    "valkey": {"broker_url": "valkey://:s3cr3t@127.0.0.1:1/0"},
    "sentinel": {
        "broker_url": "sentinel://:s3cr3t@127.0.0.1:1;sentinel://:s3cr3t@127.0.0.1:2/0",
        "broker_transport_options": {"master_name": "m", "sentinel_kwargs": {"password": "s3cr3t"}},
    },
    "sentinels in a list": {
        "broker_url": ["sentinel://:s3cr3t@127.0.0.1:1", "sentinel://:s3cr3t@127.0.0.1:2"],
        "broker_transport_options": {"master_name": "m"},
    },
    "rabbitmq": {"broker_url": "amqp://u:s3cr3t@127.0.0.1:1//", "choreo_store_url": "redis://:s3cr3t@127.0.0.1:1"},
    "rabbitmq nodes": {
        "broker_url": "amqp://u:s3cr3t@127.0.0.1:1//;amqp://u:s3cr3t@127.0.0.1:2//",
        "choreo_store_url": "rediss://u:s3cr3t@127.0.0.1:1?ssl_password=s3cr3t",
    },
    "reads elsewhere": {
        "broker_url": "amqp://u:s3cr3t@127.0.0.1:1//",
        "broker_read_url": "amqp://u:s3cr3t@127.0.0.1:2//",
        "broker_write_url": "amqp://u:s3cr3t@127.0.0.1:1//",
        "choreo_store_url": "redis://127.0.0.1:1",
    },
    "tls": {"broker_url": "redis://127.0.0.1:1/0", "broker_use_ssl": {"ssl_password": "s3cr3t", "ssl_keyfile": "/k"}},
    "the user's own": {
        "broker_url": "redis://127.0.0.1:1/0",
        "orders_dsn": ["postgresql://u:s3cr3t@db/orders"],
        "mail": {"url": "smtp://u:s3cr3t@mail"},
    },
}


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def app(request: pytest.FixtureRequest) -> Service:
    return Service("payment", config=request.param, set_as_current=False)


def test_celery_report_and_inspect_conf_show_no_password(app: Service) -> None:
    for shown in (
        app.bugreport(),
        app.conf.humanize(with_defaults=True),
        json.dumps(inspect_conf(SimpleNamespace(app=app), with_defaults=True), default=repr),
    ):
        assert "s3cr3t" not in shown
    assert "127.0.0.1:1" in app.conf.humanize()
    assert "s3cr3t" in str(app.conf.table(censored=False))


def test_inspect_stats_shows_no_password(app: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = app.connection_for_read()
    broker = connection.info()
    monkeypatch.setattr(WorkController, "stats", lambda _: {"broker": broker, "total": {"payment.pass": 5}})

    shown = ServiceWorker.stats(ServiceWorker.__new__(ServiceWorker))

    assert "s3cr3t" not in json.dumps(shown, default=repr)
    assert shown["total"] == {"payment.pass": 5}
    assert state is not None


def test_the_broker_is_named_without_its_password(app: Service) -> None:
    connection = app.connection_for_write()

    for shown in (connection.as_uri(), repr(connection), app.runtime.place()):
        assert "s3cr3t" not in shown


def test_an_error_of_the_store_names_no_password(app: Service) -> None:
    with pytest.raises((StoreError, DeclarationError)) as raised:
        app.runtime.store.ping()

    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize("url", ["redis://:s3cr3t/x@host:1/0", "redis://:s3cr3t@host:port/0"])
def test_an_error_about_a_url_names_no_password(url: str) -> None:
    app = Service("payment", config={"broker_url": url}, set_as_current=False)
    for connect in (lambda: make_client(url, None, {}), app.connection_for_write):
        with pytest.raises(DeclarationError, match=r"its port is no number.*%2F") as raised:
            connect()

        assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://host/0", "redis://host/0"),
        ("redis://u:p@host/0", f"redis://u:{MASK}@host/0"),
        ("redis://u:p@ss@host/0", f"redis://u:{MASK}@host/0"),
        ("a ://:p@b;://:q@c", f"a ://:{MASK}@b;://:{MASK}@c"),
        ("tell a@b.c about https://d.e/", "tell a@b.c about https://d.e/"),
        ("redis://h?ssl_password=p&ssl=true", f"redis://h?ssl_password={MASK}&ssl=true"),
    ],
)
def test_the_password_of_each_url_is_masked(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_what_is_no_text_stays_as_it_is() -> None:
    value = {"password": None, "pass": 5, "n": [1, (2.5, True)], "s": {"x"}, 3: "redis://:p@h", "secret": b"x"}

    assert masked(value) == {**value, 3: f"redis://:{MASK}@h", "secret": MASK}
