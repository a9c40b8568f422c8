"""Where TLS is asked for, nothing readable leaves: tried with a socket that listens where the server should be."""

import ssl
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from choreo import Event, Service
from choreo.broker.connections import BrokerConnection
from choreo.errors import DeclarationError
from choreo.fast.fused_store import FusedStore
from choreo.local.platform import check_broker
from choreo.redis_client.client import make_client
from choreo.store.redis import RedisStore
from tests.commands import beside
from tests.contract.ear import Ear, listening, naming_master
from tests.contract.redis_programs import behind_tls
from tests.waiting import eventually

#: The first byte of a TLS connection.
HANDSHAKE = 0x16
CERTIFICATES = {"ssl_ca_certs": "/etc/ssl/certs/ca-certificates.crt"}

#: The ways to ask for TLS: the URL of the broker, and Celery's settings.
WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rediss": ("rediss://u:secret@{place}/0", {}),
    "valkeys": ("valkeys://u:secret@{place}/0", {}),
    "capitals": ("REDISS://u:secret@{place}/0", {}),
    "space": (" rediss://u:secret@{place}/0", {}),
    "list": (["rediss://u:secret@{place}/0"], {}),
    "query": ("rediss://u:secret@{place}/0?ssl_cert_reqs=CERT_NONE", {}),
    "query of redis": ("redis://u:secret@{place}/0?ssl_cert_reqs=required", {}),
    "ssl=true": ("redis://u:secret@{place}/0?ssl=true", {}),
    "setting True": ("redis://u:secret@{place}/0", {"broker_use_ssl": True}),
    "setting dict": ("redis://u:secret@{place}/0", {"broker_use_ssl": CERTIFICATES}),
    "setting False": ("rediss://u:secret@{place}/0", {"broker_use_ssl": False}),
    "setting {}": ("rediss://u:secret@{place}/0", {"broker_use_ssl": {}}),
    "valkey and setting": ("valkey://u:secret@{place}/0", {"broker_use_ssl": True}),
    "transport by name": ("u:secret@{place}", {"broker_transport": "rediss"}),
    "another transport": ("rediss://u:secret@{place}/0", {"broker_transport": "redis"}),
    "sentinel": ("sentinel://u:secret@{place}/0", {"broker_use_ssl": True}),
    "sentinel query": ("sentinel://u:secret@{place}/0?ssl_cert_reqs=none", {}),
    "second sentinel's query": ("sentinel://u:secret@{place}/0;sentinel://{place}/0?ssl_cert_reqs=none", {}),
    "sentinels in a list": (["sentinel://u:secret@{place}/0", "sentinel://{place}/0"], {"broker_use_ssl": True}),
}
#: The store does not read these: it goes by the URL.
BY_TRANSPORT = ("transport by name", "another transport")
#: The same for RabbitMQ.
RABBITMQ: dict[str, tuple[Any, dict[str, Any]]] = {
    "amqps": ("amqps://u:secret@{place}//", {}),
    "amqps list": (["amqps://u:secret@{place}//", "amqps://u:secret@{place}//"], {}),
    "amqp and setting": ("amqp://u:secret@{place}//", {"broker_use_ssl": True}),
}
SENTINEL = {"master_name": "shop"}


class OrderPlaced(Event):
    number: int


def made(way: str, port: int) -> Service:
    """A service whose broker is named in one of these ways."""
    url, settings = (WAYS | RABBITMQ)[way]
    place = f"127.0.0.1:{port}"
    broker = url.format(place=place) if isinstance(url, str) else [one.format(place=place) for one in url]
    options = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, "retry_on_timeout": False}
    if "sentinel" in way:
        options |= SENTINEL
    more = {"broker_transport_options": options, "broker_connection_timeout": 1.0}
    return Service("payment", broker=broker, config={**settings, **more}, set_as_current=False)


def connect_to_broker(app: Service) -> None:
    app.connection_for_read().connect()


def connect_a_clone(app: Service) -> None:
    connection: Any = app.connection_for_write().clone()
    connection.maybe_switch_next()
    connection.connect()


def use_store(app: Service) -> None:
    app.runtime.store.ping()


def assert_nothing_readable(do: Callable[[int], object]) -> None:
    with listening() as ear:
        # It tries again and again, for longer than a test should take.
        caller = Thread(target=_quietly, args=(do, ear.port), daemon=True)
        caller.start()
        eventually(lambda: ear.heard, reason="somebody calls")
        caller.join(0.3)

        assert_only_handshakes(ear)


def assert_only_handshakes(ear: Ear) -> None:
    for words in ear.heard:
        assert words[0] == HANDSHAKE, words
        assert b"secret" not in words


def _quietly(do: Callable[[int], object], port: int) -> None:
    with suppress(Exception):
        do(port)


@pytest.mark.parametrize(
    ("way", "part"),
    [
        *product(WAYS, [connect_to_broker, connect_a_clone]),
        *product([way for way in WAYS if way not in BY_TRANSPORT], [use_store]),
    ],
)
def test_where_tls_is_asked_for_nothing_readable_leaves(way: str, part: Callable[[Service], None]) -> None:
    assert_nothing_readable(lambda port: part(made(way, port)))


@pytest.mark.parametrize("part", [connect_to_broker, connect_a_clone])
@pytest.mark.parametrize("way", RABBITMQ)
def test_to_rabbitmq_nothing_readable_leaves_either(way: str, part: Callable[[Service], None]) -> None:
    assert_nothing_readable(lambda port: part(made(way, port)))


@pytest.mark.parametrize("way", ["rediss", "valkeys", "setting True", "sentinel query"])
def test_the_publisher_says_nothing_readable(way: str) -> None:
    assert_nothing_readable(lambda port: made(way, port).publish(OrderPlaced(number=1)))


@pytest.mark.parametrize("option", ["--broker", "--store"])
@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_the_command_line_says_nothing_readable(scheme: str, option: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with listening() as ear:
        url = f"{scheme}://u:secret@127.0.0.1:{ear.port}/0"
        with beside("dead-letters", option, url, "list", output=output) as command:
            eventually(lambda: ear.heard or command.poll() is not None, reason="the command calls, or ends")

        # The ear keeps what it hears in a thread of its own, which may come a little after the end of the command.
        assert eventually(lambda: ear.heard, timeout=10, reason=output.read_text())
        assert_only_handshakes(ear)


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_the_check_of_choreo_up_says_nothing_readable(scheme: str) -> None:
    assert_nothing_readable(lambda port: check_broker(f"{scheme}://u:secret@127.0.0.1:{port}/0"))
    assert_nothing_readable(lambda port: check_broker(f"redis://u:secret@127.0.0.1:{port}/0", True))


def test_another_database_of_the_brokers_server_is_spoken_to_in_the_same_way() -> None:
    def call(port: int) -> None:
        app = made("setting True", port)
        app.conf.choreo_store_url = f"redis://other:secret@127.0.0.1:{port}/1"
        app.runtime.store.ping()

    assert_nothing_readable(call)


def test_the_master_that_an_unencrypted_sentinel_names_hears_nothing_readable() -> None:
    def call(port: int) -> None:
        with listening(naming_master(port)) as sentinel:
            app = made("sentinel", sentinel.port)
            app.conf.broker_transport_options = {
                **app.conf.broker_transport_options,
                "sentinel_kwargs": {"ssl": False, "protocol": 2},
            }
            with suppress(Exception):
                connect_to_broker(app)
            with suppress(Exception):
                use_store(app)
            assert not any(b"secret" in words for words in sentinel.heard)

    assert_nothing_readable(call)


@pytest.mark.parametrize("value", ["CERT_NONE", "none", "CERT_REQUIRED", "required", "Optional", "CERT_OPTIONAL"])
def test_broker_and_store_read_the_same_requirement(value: str) -> None:
    app = made("rediss", 1)
    app.conf.broker_url = app.conf.broker_write_url = f"rediss://127.0.0.1:1/0?ssl_cert_reqs={value}"
    expected = getattr(ssl, f"CERT_{value.upper().removeprefix('CERT_')}")

    connection: Any = app.connection_for_write()
    store: Any = app.runtime.store

    assert connection.ssl["ssl_cert_reqs"] is expected
    assert isinstance(store, FusedStore)
    calls = store._calls
    stores = make_client(calls.url, calls._ssl, calls._transport)
    assert stores.connection_pool.connection_kwargs["ssl_cert_reqs"] is expected


@pytest.mark.parametrize("url", ["rediss://h/0", "redis://h/0?ssl=true"])
def test_without_a_word_about_it_the_certificate_is_verified(url: str) -> None:
    assert BrokerConnection(url).ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert make_client(url, None, {}).connection_pool.connection_kwargs["ssl_cert_reqs"] is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("url", "setting", "said"),
    [
        ("rediss://h/0?ssl_cert_reqs=never", None, "'never'.*required, optional or none"),
        ("rediss://h/0?ssl_check_hostname=perhaps", None, "'perhaps'.*true or false"),
        ("redis://h/0", {"keyfile": "/key"}, "'keyfile'.*ssl_keyfile"),
        ("redis://h/0", "yes", "'yes'.*True, False or a dict"),
        ("sentinel://a/0;redis://b/0", None, "Sentinel and also redis://"),
    ],
)
def test_what_cannot_work_is_refused_in_broker_and_store(url: str, setting: Any, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        BrokerConnection(url, ssl=setting)
    if "sentinel" not in url:
        with pytest.raises(DeclarationError, match=said):
            make_client(url, setting, {})


@pytest.mark.parametrize("query", ["ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs=none", "ssl_ca_certs={certificate}"])
def test_a_real_server_behind_tls_serves_broker_and_store(query: str, namespace: str, tmp_path: Path) -> None:
    with behind_tls(tmp_path) as (port, certificate):
        url = f"rediss://127.0.0.1:{port}/0?{query.format(certificate=certificate)}"
        app = Service("payment", broker=url, config={"choreo_namespace": namespace}, set_as_current=False)

        app.runtime.store.ping()
        RedisStore(url).ping()
        app.publish(OrderPlaced(number=1))
        check_broker(url)
        app.publisher.close()
