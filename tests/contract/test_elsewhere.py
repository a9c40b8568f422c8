"""Broker and store where Sentinel says that they are, and behind TLS: one address in the settings is enough."""

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer

from choreo import Event, PublishError, Service
from choreo.broker.redis.publishing import PublishingChannel
from choreo.errors import DeclarationError, StoreError
from choreo.fast.fused_store import FusedStore
from choreo.store import Claim, Outcome, Settlement, Verdict
from tests.contract.redis_broker import TIMEOUT
from tests.contract.redis_programs import behind_tls, succeeds, under_sentinel
from tests.waiting import eventually


class OrderPlaced(Event):
    number: int


class Ear:
    """Reads what the handler's queue gets, and connects again as a worker does."""

    def __init__(self, app: Service) -> None:
        self.app, self.numbers = app, set[int]()
        self._connection: Connection = app.connection_for_read()
        self._consume()

    def _consume(self) -> None:
        queue = self.app.amqp.queues[self.app.runtime.topology.name_of("payment.charge")]
        channel = self._connection.channel()
        queue(channel).declare()
        self._consumer = Consumer(channel, [queue], on_message=self._received, auto_declare=False)
        self._consumer.consume()

    def _received(self, message: Any) -> None:
        self.numbers.add(message.payload[0][0].envelope.data["number"])
        message.ack()

    def heard(self, *numbers: int) -> bool:
        try:
            self._connection.drain_events(timeout=0.2)
        except TimeoutError:
            pass
        except self._connection.recoverable_connection_errors:
            self._connection.collect()
            with suppress(*self._connection.recoverable_connection_errors):
                self._consume()
        return self.numbers >= set(numbers)

    @property
    def is_choreos(self) -> bool:
        """Whether it reads by choreo's transport."""
        return isinstance(self._consumer.channel, PublishingChannel)

    def close(self) -> None:
        self._connection.release()


def make_app(url: str, namespace: str, **settings: Any) -> Service:
    app = Service("payment", broker=url, config={"choreo_namespace": namespace, **settings}, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    return app


def published(app: Service, number: int) -> bool:
    try:
        app.publish(OrderPlaced(number=number))
    except PublishError:
        return False
    return True


def settled(app: Service, unit: str) -> bool:
    claim = Claim("payment.charge", unit, f"token of {unit}")
    try:
        app.runtime.store.begin(claim)
        return app.runtime.store.commit(claim, Settlement()).outcome in (Outcome.OK, Outcome.ALREADY)
    except StoreError:
        return False


def test_broker_and_store_follow_the_master_that_sentinel_names(namespace: str, tmp_path: Path) -> None:
    with under_sentinel(tmp_path) as (url, sentinel):
        options = {"master_name": "shop", "consumer_timeout": TIMEOUT}
        # The first of them is away.
        app = make_app(f"sentinel://127.0.0.1:1/0;{url}", namespace, broker_transport_options=options)
        ear = Ear(app)
        assert isinstance(app.runtime.store, FusedStore)
        assert ear.is_choreos
        assert published(app, 1)
        assert settled(app, "before")
        eventually(lambda: ear.heard(1))
        before = sentinel.sentinel_get_master_addr_by_name("shop")

        # It refuses until it has looked at the replica often enough.
        eventually(lambda: succeeds(lambda: sentinel.execute_command("SENTINEL", "FAILOVER", "shop")))
        eventually(lambda: sentinel.sentinel_get_master_addr_by_name("shop") != before)

        eventually(lambda: published(app, 2))
        eventually(lambda: settled(app, "after"))
        eventually(lambda: ear.heard(1, 2))
        assert ear.is_choreos
        assert app.runtime.store.begin(Claim("payment.charge", "before", "B")).verdict is Verdict.DONE
        ear.close()
        app.publisher.close()


def test_a_sentinel_without_the_name_of_its_master_is_an_error_that_asks_for_it(namespace: str) -> None:
    app = make_app("sentinel://127.0.0.1:1/0", namespace)

    with pytest.raises(DeclarationError, match="master_name"):
        app.runtime.store.ping()


def test_broker_and_store_use_the_same_certificates(namespace: str, tmp_path: Path) -> None:
    with behind_tls(tmp_path) as (port, certificate):
        use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(certificate)}
        app = make_app(f"redis://127.0.0.1:{port}/0", namespace, broker_use_ssl=use_ssl)
        ear = Ear(app)

        assert published(app, 1)
        eventually(lambda: ear.heard(1))
        assert settled(app, "e-1")
        ear.close()
        app.publisher.close()
